"""What every data source hands to a training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from visgen.data.scenes.scene import Scene


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of images with what is known about them.

    Attributes:
        images: uint8 (B, 3, H, W).
        captions: B strings, or None when the source has none.
        labels: B class indices, or None when the source has none.
        scenes: B ground-truth scenes (the `scenes` source only), else None.
    """

    images: torch.Tensor
    captions: list[str] | None = None
    labels: list[int] | None = None
    scenes: list[Scene] | None = None

    def __len__(self) -> int:
        return len(self.images)
