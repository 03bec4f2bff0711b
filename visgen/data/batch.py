"""What every data source hands to a training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from visgen.data.scenes.scene import Scene


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of images with what is known about them.

    Attributes:
        images: uint8 (B, 3, H, W); (B, 3, 0, 0) where the source holds tokens instead.
        captions: B strings, or None when the source has none.
        labels: B class indices, or None when the source has none.
        scenes: B ground-truth scenes (the `scenes` source only), else None.
        tokens: `ImageTokens` of the B images (the `tokens` source only), else None.
    """

    images: torch.Tensor
    captions: list[str] | None = None
    labels: list[int] | None = None
    scenes: list[Scene] | None = None
    tokens: Any = None

    def __len__(self) -> int:
        return len(self.images)
