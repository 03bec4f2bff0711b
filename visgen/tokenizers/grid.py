"""What tokenizers whose tokens stand in one grid have in common."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.model import VisgenModel
from visgen.nn.noise import Noise
from visgen.nn.quantizers.vq import VectorQuantizer
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.convolutional import check_ids
from visgen.tokenizers.tokens import Grid, ImageTokens


class GridTokenizer(VisgenModel, ImageTokenizer):
    """Base of tokenizers of one grid: features of an image become a token per position, and back.

    `layout` is that of images of `image_size`; others encode and decode too, and their tokens carry their
    grid.
    """

    @property
    def downsampling(self) -> int:
        """Pixels per position, along each side."""
        return 2 ** (len(self.config.ch_mult) - 1)

    @property
    def pixel_size(self) -> int:
        return self.config.image_size

    @property
    def layout(self) -> Grid:
        side = self.config.image_size // self.downsampling
        return Grid(side, side)

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features (B, C, h, w) of images (B, 3, H, W) in [-1, 1], before the quantizer.

        Raises:
            InputError: sides that are no multiples of the downsampling.
        """

    @abstractmethod
    def tokens_of_features(self, features: Tensor, noise: Noise | None = None) -> ImageTokens:
        """The nearest tokens of `features`, or those that `noise` draws where the quantizer can draw."""

    @abstractmethod
    def embed_tokens(self, tokens: ImageTokens) -> Tensor:
        """What `decode_latents` makes images of, (B, C, h, w).

        Raises:
            InputError: latents, another layout, a mask, other sub-codes, or ids beyond the codebook.
        """

    @abstractmethod
    def decode_latents(self, fhat: Tensor) -> Tensor:
        """Images of quantised features (B, C, h, w), about [-1, 1], unclamped."""

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        num_tokens: int | None = None,
        max_error: float | None = None,
        noise: Noise | None = None,
    ) -> ImageTokens:
        """Ids in raster order, (B, L), or (B, L, K) where a position has sub-codes.

        Raises:
            InputError: a knob that this tokenizer lacks (num_tokens, max_error), or sizes that do not fit.
        """
        self.check_knobs(num_tokens, max_error)
        return self.tokens_of_features(self.features(images.to(self.dtype)), noise)

    @torch.no_grad()
    def decode(self, tokens: ImageTokens, *, sampling: object = None, noise: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W), unclamped; raises `InputError` as `embed_tokens` does."""
        return self.decode_latents(self.embed_tokens(tokens))


class CodeGridTokenizer(GridTokenizer):
    """Base of those with one code of a `VectorQuantizer`, `vq`, per position."""

    vq: VectorQuantizer

    @property
    def quantizer(self) -> VectorQuantizer:
        return self.vq

    def tokens_of_features(self, features: Tensor, noise: Noise | None = None) -> ImageTokens:
        return ImageTokens(Grid(*features.shape[-2:]), ids=self.vq.encode(features))

    def embed_tokens(self, tokens: ImageTokens) -> Tensor:
        """Codes (B, C, h, w) of ids (B, L)."""
        if tokens.ids is None or tokens.ids.ndim != 2 or not isinstance(tokens.layout, Grid):
            raise InputError(f"{type(self).__name__} decodes ids (B, L) in a Grid layout")
        self.check_complete(tokens)
        check_ids(tokens.ids, self.config.codebook_size)
        codes = self.vq.embed(tokens.ids).transpose(1, 2)  # (B, C, L)
        # contiguous: group norms of strided maps round 30 times as much on a CPU
        return codes.unflatten(2, (tokens.layout.h, tokens.layout.w)).contiguous()
