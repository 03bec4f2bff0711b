"""The image tokenizers inside Janus and Emu3 models of the transformers library, used as they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError, shown
from visgen.nn.model import read_config
from visgen.nn.noise import Noise
from visgen.nn.pretrained import load_pretrained, save_pretrained
from visgen.tokenizers.base import ImageTokenizer, check_sides
from visgen.tokenizers.convolutional import check_ids
from visgen.tokenizers.tokens import Grid, ImageTokens
from visgen.tokenizers.wrapping import WrapperConfig, read_settings, write_settings

CLASSES = {"janus_vqgan": "JanusVQVAE", "emu3_vqgan": "Emu3VQVAE"}


class TransformersVQ(nn.Module, ImageTokenizer):
    """`JanusVQVAE` or `Emu3VQVAE` behind the contract of image tokenizers.

    Args:
        model: the `vqmodel` of a loaded model, or one by itself.
        grid: ids of an image; None = Janus' own (it decodes no other), 90 × 90 for Emu3.

    Raises:
        InputError: another class of model, or a grid that it does not decode.
    """

    def __init__(self, model: Any, grid: Grid | None = None) -> None:
        super().__init__()
        name = type(model).__name__
        if name not in CLASSES.values():
            raise InputError(f"model is a {name}; it must be one of {', '.join(CLASSES.values())}")
        self.model, self._is_janus = model, name == "JanusVQVAE"
        own = Grid(*model.quantize.quant_state_dims) if self._is_janus else Grid(90, 90)
        self.grid = own if grid is None else grid
        if self._is_janus and self.grid != own:
            raise InputError(f"grid={self.grid} must be {own}: this model decodes one size")

    @property
    def config(self) -> WrapperConfig:
        """What pipelines look at; the model's own is `model.config`."""
        return WrapperConfig(self.codebook.shape[0])

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model."""
        return self.model.dtype

    @property
    def downsampling(self) -> int:
        """Pixels per id, along each side."""
        return 2 ** (len(self.model.config.channel_multiplier) - 1)

    @property
    def pixel_size(self) -> int:
        return min(self.grid.h, self.grid.w) * self.downsampling

    @property
    def layout(self) -> Grid:
        return self.grid

    @property
    def codebook(self) -> Tensor:
        codes = self.model.quantize.embedding.weight
        return F.normalize(codes, dim=-1) if self._is_janus else codes

    @property
    def quantizer(self) -> nn.Module:
        return self.model.quantize

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        num_tokens: int | None = None,
        max_error: float | None = None,
        noise: Noise | None = None,
    ) -> ImageTokens:
        """Ids in raster order.

        Raises:
            InputError: a knob that this tokenizer lacks (num_tokens, max_error), or sizes that do not fit.
        """
        self.check_knobs(num_tokens, max_error)
        size, side = tuple(images.shape[-2:]), self.downsampling
        check_sides(images, side)
        grid = Grid(size[0] // side, size[1] // side)
        images = images.to(self.device, self.dtype)
        if self._is_janus:
            ids = self.model.encode(images, return_dict=True).image_tokens
        else:
            sizes = torch.tensor([size] * len(images))
            ids = torch.stack(self.model.encode(images, sizes, return_dict=True).image_tokens)
        return ImageTokens(grid, ids=ids.reshape(len(images), -1).long())

    @torch.no_grad()
    def decode(self, tokens: ImageTokens, *, sampling: object = None, noise: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W), unclamped.

        Raises:
            InputError: latents, a mask, ids beyond the codebook, or a layout that the model does not decode.
        """
        ids = self._checked(tokens).to(self.device)
        if self._is_janus:
            return self.model.decode(ids)
        assert isinstance(tokens.layout, Grid)
        return self.model.decode(ids.view(-1, tokens.layout.h, tokens.layout.w))

    def _checked(self, tokens: ImageTokens) -> Tensor:
        if tokens.ids is None or tokens.ids.ndim != 2 or not isinstance(tokens.layout, Grid):
            raise InputError("TransformersVQ decodes ids (B, L) in a Grid layout")
        if self._is_janus and tokens.layout != self.grid:
            raise InputError(
                f"tokens of layout {tokens.layout} must be of {self.grid}: Janus decodes one size"
            )
        self.check_complete(tokens)
        check_ids(tokens.ids, self.codebook.shape[0])
        return tokens.ids

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, dtype: torch.dtype | str | None = None
    ) -> TransformersVQ:
        """Load a folder of `save_pretrained`; `dtype` as in `load_pretrained`.

        Raises:
            InputError: another model, or weights that do not fit.
        """
        kind = read_config(Path(folder)).get("model_type")
        if kind not in CLASSES:
            raise InputError(
                f"{str(folder)!r} holds a model of type {shown(kind)}, not {' or '.join(CLASSES)}"
            )
        return cls(load_pretrained(CLASSES[kind], folder, dtype), **read_settings(folder))

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        """Write the model as the transformers library does, and the grid."""
        save_pretrained(self.model, folder, dtype)
        write_settings(folder, {"grid": self.grid})
