"""What a pipeline returns: images as the caller wants them, the tokens, and how to make them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visgen.data.images import to_pil
from visgen.pipelines.options import OutputType
from visgen.pipelines.seeds import ImageSeed
from visgen.tokenizers.tokens import ImageTokens

Images = list[Image.Image] | np.ndarray | Tensor | list[np.ndarray] | list[Tensor]


@dataclass(frozen=True, eq=False)
class ImageOutput:
    """Images and their origin.

    Attributes:
        images: PIL images; or a float array (B, H, W, 3) ("np") or tensor (B, 3, H, W) ("pt") in [0, 1], on
            the CPU; a list of single ones where sizes differ.
        tokens: the tokens of the images, on the CPU.
        prompts: prompt of each image, where there are prompts.
        labels: class of each image, where there are classes; -1 is unconditional.
        seeds: (seed, ordinal) of each image; None where nothing is random.
        settings: resolved options, model, device, dtype and version.
        stats: what generating took: `passes` of the model for each image, and for next-token models the
            fields of `visgen.decoding.base.DecodingStats`.
        progressive: for each image, the image after each scale from coarse to fine; None unless asked for.
    """

    images: Images
    tokens: ImageTokens
    prompts: list[str] | None = None
    labels: list[int] | None = None
    seeds: list[ImageSeed | None] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    progressive: list[Images] | None = None

    def __len__(self) -> int:
        return len(self.images)


class StepState:
    """What a callback sees after a step of a micro-batch. Decoding happens only when `images` is called."""

    def __init__(self, rows: range, ids: Tensor | None, decode: Callable[[], Tensor] | None) -> None:
        self.rows = rows
        self.ids = ids
        self._decode = decode

    @cached_property
    def _images(self) -> list[Image.Image]:
        return [] if self._decode is None else to_pil(self._decode())

    def images(self) -> list[Image.Image]:
        """The images so far, one per row; empty where a model has no image before its last step."""
        return self._images


Callback = Callable[[Any, int, int, StepState], Any]


def convert_images(pixels: Tensor, output_type: OutputType) -> Images:
    """Pixels (B, 3, H, W) in about [-1, 1] as PIL images, a float array or a float tensor in [0, 1]."""
    if output_type == "pil":
        return to_pil(pixels)
    unit = ((pixels.detach().to("cpu", torch.float32) + 1) / 2).clamp_(0, 1)
    return unit if output_type == "pt" else unit.permute(0, 2, 3, 1).contiguous().numpy()


def join_images(parts: Sequence[Images]) -> Images:
    """The parts of one output type, joined along the batch."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(list(parts))
    return [image for part in parts for image in part]
