"""Every so-manieth token of the sequence: the baseline that looks at nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.views import ImageView, Selection


def uniform_indices(total: int, count: int) -> Tensor:
    """(count,) int64, ascending: the middles of `count` equal parts of 0 … total − 1."""
    return (2 * torch.arange(count) + 1) * total // (2 * count)


@dataclass(frozen=True)
class Uniform(VisionTokenPruner):
    """Keep tokens at equal distances along the sequence, row by row of the image."""

    def select(self, images: Sequence[ImageView]) -> list[Selection]:
        kept = [uniform_indices(len(image), self.budget(len(image))) for image in images]
        return [Selection(index.to(i.features_ND.device)) for index, i in zip(kept, images, strict=True)]
