"""The contract of image tokenizers: images in [-1, 1] become `ImageTokens` and back."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

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

    Deterministic unless `noise` is given: a decoder that starts from noise (`starts_from_noise`) then gives
    every image the same draw. Pixels are (B, 3, H, W) in [-1, 1]; rounding to bytes is the saver's job.

    Attributes:
        knobs: what `encode` lets the caller choose, of "num_tokens" (1 … `layout.length`) and "max_error".
        starts_from_noise: whether `decode` draws noise and takes a `FlowSampling`.
    """

    knobs: ClassVar[frozenset[str]] = frozenset()
    starts_from_noise: ClassVar[bool] = False

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
        """Raise `InputError` for a knob that this tokenizer lacks, or a value out of its range."""
        name = type(self).__name__
        for knob, value in (("num_tokens", num_tokens), ("max_error", max_error)):
            if value is not None and knob not in self.knobs:
                other = " and ".join(sorted(self.knobs)) or "leave it out"
                why = f"it takes {other}" if self.knobs else f"it makes a fixed number of tokens; {other}"
                raise InputError(f"{knob}={value}: {name} does not take it; {why}")
        if num_tokens is not None and not 1 <= num_tokens <= self.layout.length:
            raise InputError(f"num_tokens={num_tokens}: {name} makes 1 to {self.layout.length} tokens")
        if max_error is not None and not 0 <= max_error < float("inf"):
            raise InputError(
                f"max_error={max_error} must be 0 or more (mean absolute error of [0, 1] pixels)"
            )

    def check_complete(self, tokens: ImageTokens) -> None:
        """Raise `InputError` for a mask that leaves tokens out."""
        if tokens.mask is not None and not bool(tokens.mask.all()):
            name = type(self).__name__
            raise InputError(f"{name} decodes whole images: a mask that leaves tokens out does not fit")

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
