"""FasterVLM (arXiv 2412.01818): keep what the vision tower's CLS token looks at.

The score is the CLS row of the last layer's attention, mean over heads. Towers without CLS (SigLIP, Qwen)
score a token by the mean attention that it receives, an adaptation. Line ends of LLaVA-NeXT are dropped
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.views import ImageView, Selection


@dataclass(frozen=True)
class ClsAttention(VisionTokenPruner):
    """Keep the tokens with the highest attention of the vision tower."""

    needs = frozenset({"scores"})

    def select(self, images: Sequence[ImageView]) -> list[Selection]:
        return [self._top(image) for image in images]

    def _top(self, image: ImageView) -> Selection:
        if image.scores_N is None:
            raise InputError("cls: the features came without scores of the vision tower")
        ranked_N = image.scores_N.argsort(descending=True, stable=True)
        return Selection(ranked_N[: self.budget(len(image))])
