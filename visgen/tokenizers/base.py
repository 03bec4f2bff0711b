"""The contract of image tokenizers: images in [-1, 1] become `ImageTokens` and back."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.tokenizers.tokens import ImageTokens, Layout


def check_sides(images: Tensor, side: int) -> None:
    """Raise `InputError` for images (B, 3, H, W) whose sides are no multiples of `side` pixels."""
    if images.shape[-2] % side or images.shape[-1] % side:
        raise InputError(
            f"images of {tuple(images.shape[-2:])} pixels: both sides must be multiples of {side}"
        )


class ImageTokenizer:
    """Mixin of every tokenizer. Concrete classes are `VisgenModel`s too.

    Deterministic unless `noise` is given. Pixels are (B, 3, H, W) in [-1, 1]; rounding to bytes is the
    saver's job.
    """

    @property
    @abstractmethod
    def pixel_size(self) -> int:
        """Side in pixels of the square images it was made for."""

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """Token layout at `pixel_size`."""

    @property
    def codebook(self) -> Tensor | None:
        """Code vectors (V, D), or None."""
        return None

    @property
    def quantizer(self) -> Any:
        """The quantizer module that a generator may need, or None."""
        return None

    @abstractmethod
    def encode(
        self,
        images: Tensor,
        *,
        num_tokens: int | None = None,
        max_error: float | None = None,
        noise: Noise | None = None,
    ) -> ImageTokens:
        """Tokens of images (B, 3, H, W) in [-1, 1]. A tokenizer without a knob raises `InputError` when it is
        used."""

    @abstractmethod
    def decode(self, tokens: ImageTokens, *, sampling: Any = None, noise: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W) of tokens, about [-1, 1], unclamped."""

    def check_knobs(self, num_tokens: int | None, max_error: float | None) -> None:
        """Raise `InputError` where a tokenizer of a fixed number of tokens is given a knob."""
        if num_tokens is not None or max_error is not None:
            name = type(self).__name__
            raise InputError(f"{name} has a fixed number of tokens: leave num_tokens and max_error out")

    def preprocess(self, images: Any) -> Tensor:
        """PIL images, arrays (uint8, or float in [0, 1]) or tensors ([-1, 1]) → (B, 3, s, s) at `pixel_size`.

        The shorter side is resized (Lanczos for PIL and arrays) and the centre is cropped.
        """
        from visgen.data.images import prepare_batch

        parameter = next(self.parameters())  # type: ignore[attr-defined]
        batch = prepare_batch(images, self.pixel_size)
        return batch.to(
            parameter.device, parameter.dtype if parameter.dtype.is_floating_point else torch.float32
        )
