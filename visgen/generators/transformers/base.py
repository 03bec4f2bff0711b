"""Generators that wrap a model of the transformers library: what Janus, Emu3 and Chameleon share."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.generators.conditions import Condition, PromptCondition
from visgen.generators.next_token import NextTokenGenerator
from visgen.generators.transformers.session import TrunkSession
from visgen.generators.transformers.trunk import Trunk
from visgen.nn.pretrained import load_pretrained, save_pretrained
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import Grid, ImageTokens
from visgen.tokenizers.wrapping import WrapperConfig, read_settings, write_settings

Wrapper = TypeVar("Wrapper", bound="TransformersGenerator")


class TransformersGenerator(nn.Module, NextTokenGenerator):
    """A loaded model of the transformers library that generates images token by token.

    Subclasses name the model's class and say how their image looks as a sequence: rows of codes, each
    followed by `line_end` tokens. What stands behind the last row (end of image, end of text) is fixed and is
    not generated.

    Args:
        model: a `…ForConditionalGeneration` with SDPA attention; it is used as it is, never changed.
        grid: codes of an image; None = the model's own size.

    Raises:
        InputError: another class of model.
    """

    model_class: ClassVar[str]

    def __init__(self, model: Any, grid: Grid | None = None) -> None:
        super().__init__()
        if type(model).__name__ != self.model_class:
            raise InputError(
                f"model is a {type(model).__name__}; {type(self).__name__} needs a {self.model_class}"
            )
        self.model = model
        self.grid = self.own_grid if grid is None else grid

    @property
    @abstractmethod
    def own_grid(self) -> Grid:
        """Codes of the images that the model was made for."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """V."""

    @property
    def line_end(self) -> int:
        """Format tokens behind each row of codes: 0 or 1."""
        return 0

    @abstractmethod
    def trunk(self) -> Trunk:
        """The way into the model, as it is now."""

    @property
    def config(self) -> WrapperConfig:
        """What pipelines look at; the model's own is `model.config`."""
        return WrapperConfig(self.codebook_size)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model."""
        return self.model.dtype

    @property
    def layout(self) -> Grid:
        """Token layout of an image."""
        return self.grid

    @property
    def positions(self) -> tuple[int, int]:
        """(rows, tokens per row) of the generated sequence, line ends included."""
        return self.grid.h, self.grid.w + self.line_end

    @property
    def length(self) -> int:
        """Generated tokens of an image, line ends included."""
        return self.positions[0] * self.positions[1]

    def forced(self) -> Tensor | None:
        """Int64 (L,): the line end's id where one stands, -1 for codes; None for models without line ends."""
        if not self.line_end:
            return None
        ends = (torch.arange(self.length) + 1) % self.positions[1] == 0
        return torch.where(ends, self.codebook_size, -1).to(self.device)

    def session(self, condition: Condition, sampling: TokenSampling, entries: int) -> TrunkSession:
        """One generation of the prompts; `entries` = the most that a pass feeds.

        Raises:
            InputError: another kind of condition, no negative prompts for guidance, or prompts that are too
                long.
        """
        if not isinstance(condition, PromptCondition):
            raise InputError(
                f"{type(condition).__name__} does not fit {type(self).__name__}; give a PromptCondition"
            )
        return TrunkSession(self.trunk(), condition, sampling, self.length, entries)

    def from_positions(self, ids_BLK: Tensor) -> ImageTokens:
        """The codes of generated ids (B, L, 1), line ends left out."""
        rows = ids_BLK.reshape(len(ids_BLK), *self.positions)[:, :, : self.grid.w]
        return ImageTokens(self.grid, ids=rows.flatten(1))

    def as_positions(self, tokens: ImageTokens) -> Tensor:
        """Ids (B, L, 1) of tokens, line ends put in.

        Raises:
            InputError: another layout.
        """
        if tokens.ids is None or tokens.ids.ndim != 2 or tokens.layout != self.grid:
            raise InputError(f"tokens of layout {tokens.layout} do not fit a generator of {self.grid}")
        return self._with_line_ends(tokens.ids.to(self.device))[..., None]

    def mask_positions(self, mask_BL: Tensor) -> Tensor:
        """The mask (B, L, 1), True at line ends."""
        return (self._with_line_ends(mask_BL.long()) > 0)[..., None]

    def _with_line_ends(self, values_BL: Tensor) -> Tensor:
        rows = values_BL.view(-1, self.grid.h, self.grid.w)
        return F.pad(rows, (0, self.line_end), value=self.codebook_size).flatten(1)

    def loss(self, tokens: ImageTokens, condition: Condition, *, quantizer: Any = None) -> dict[str, Tensor]:
        """Refuses: models of the transformers library are trained with that library."""
        raise InputError(f"{type(self).__name__} is not trained by visgen; fine-tune it with transformers")

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments beside the model."""
        return {"grid": self.grid}

    @classmethod
    def from_pretrained(
        cls: type[Wrapper],
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Wrapper:
        """Load a local folder of the transformers library.

        Args:
            folder: with `config.json` and safetensors.
            dtype: None = float32, "auto" = as stored, or a torch dtype.
            settings: constructor arguments; None = those that `save_pretrained` wrote, if it did.

        Raises:
            InputError: weights that are missing or do not fit, or bad settings.
        """
        arguments = read_settings(folder) if settings is None else settings
        return cls(load_pretrained(cls.model_class, folder, dtype), **arguments)

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        """Write the model as the transformers library does, and the settings; floats as `dtype` if given."""
        save_pretrained(self.model, folder, dtype)
        write_settings(folder, self.settings)
