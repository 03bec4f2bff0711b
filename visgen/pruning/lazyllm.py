"""LazyLLM (arXiv 2407.14057) for image tokens: fewer of them the deeper a layer is; see `progressive`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.progressive import schedule_layers, stage_budgets
from visgen.pruning.scoring import top_per_group
from visgen.pruning.views import LayerView

ENTERED = "lazyllm.entered"


@dataclass(frozen=True)
class LazyLLM(VisionTokenPruner):
    """After each of some layers keep the image tokens that the prompt's last token attends to.

    Args:
        keep: what is left after the last stage, a fraction of what entered the language model or a count;
            every stage leaves the same share of what the one before did: 0.67, 0.45, 0.3 for 0.3.
        depths: where the stages are, as fractions of the model's depth.
    """

    keep: int | float | None = 0.3
    depths: tuple[float, ...] = (0.3, 0.6, 0.9)

    attention_rows = "last"

    def layers(self, num_layers: int) -> Collection[int]:
        """See `VisionTokenPruner.layers`."""
        return schedule_layers(self.depths, num_layers)

    def filter(self, view: LayerView) -> Tensor:
        """See `VisionTokenPruner.filter`."""
        assert view.attention_HTN is not None
        group_N = view.image_N if self.scope == "image" else view.image_N.new_zeros(len(view))
        if view.stage == 0:
            view.notes[ENTERED] = group_N.bincount().tolist()
        stages = len(self.depths)
        counts = [
            stage_budgets(self.budget(n), n, stages)[view.stage] if n else 0 for n in view.notes[ENTERED]
        ]
        return top_per_group(view.attention_HTN.mean(dim=(0, 1)), group_N, counts)
