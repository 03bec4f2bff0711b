"""FastV (arXiv 2403.06764): after the second layer, keep the image tokens that the last token looks at."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from visgen.errors import InputError, shown
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.scoring import top_per_group
from visgen.pruning.views import LayerView


@dataclass(frozen=True)
class FastV(VisionTokenPruner):
    """Keep the image tokens with the highest attention of the prompt's last token, mean over heads.

    Args:
        layer: K, how many layers see all tokens (1 … layers − 1); the K-th one's attention decides.
    """

    keep: int | float | None = 0.5
    layer: int = 2

    attention_rows = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.layer, int) or self.layer < 1:
            raise InputError(f"layer={shown(self.layer)} must be a number of layers from 1 on, such as 2")

    def layers(self, num_layers: int) -> Collection[int]:
        return (self.layer - 1,)

    def filter(self, view: LayerView) -> Tensor:
        assert view.attention_HTN is not None
        scores_N = view.attention_HTN.mean(dim=(0, 1))
        image_N = view.image_N if self.scope == "image" else view.image_N.new_zeros(len(view))
        counts = image_N.bincount().tolist()
        return top_per_group(scores_N, image_N, [self.budget(count) if count else 0 for count in counts])
