"""Recoverable Compression (arXiv 2409.01179) as a pruner; the mathematics is `recovery`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.patches import all_entries, check_patches, patch_entries, tower_of
from visgen.pruning.recovery import Counts, Recovered, cls_row, fitted, own_counts, recover, text_similarity
from visgen.pruning.views import ImageView, Selection, TowerView


@dataclass(frozen=True)
class RecoverableCompression(VisionTokenPruner):
    """Visually salient tokens, tokens that speak of the text, and the rest as a few merged ones.

    Of several tiles all patches count as one image's. Line ends of LLaVA-NeXT are dropped, unless all stays.
    `positions="compact"`, `order="rank"` give the released code's sequence.

    Args:
        keep: a budget, shared among the three kinds in the proportion that the scores say; None = as many as
            there are outliers among the scores.
        text_scores: how much each token of a view speaks of the text, (N,). The paper's are
            `recovery.text_similarity` of CLIP's projected patches and text. None = the same of the tokens as
            the language model reads them, and the mean of the prompt's text embeddings: an adaptation that
            needs no second model.
    """

    keep: int | float | None = None
    text_scores: Any = None  # Callable[[ImageView], Tensor] | None

    needs = frozenset({"tower", "text"})
    own_criterion = True

    def select(self, images: Sequence[ImageView]) -> list[Selection]:
        """See `VisionTokenPruner.select`."""
        return [self._one(image) for image in images]

    def _one(self, view: ImageView) -> Selection:
        tower = tower_of(view, "recoverable")
        check_patches(tower, "recoverable")
        if self.keep is not None and self.budget(len(view)) == len(view):
            return Selection(all_entries(view))
        entry_P = patch_entries(view, tower)
        patch_N = (entry_P >= 0).nonzero()[:, 0]
        entry_N = entry_P[patch_N]
        visual_P, keys_PC, hidden_PC = _patches(tower)
        visual_N, text_N = visual_P[patch_N], self._text(view)[entry_N]
        counts = own_counts(visual_N, text_N)
        if self.keep is not None:
            counts = fitted(counts, self.budget(len(view)), len(entry_N))
        elif counts.total == 0:
            counts = Counts(1, 0, 0)
        found = recover(hidden_PC[patch_N], keys_PC[patch_N], visual_N, text_N, counts)
        return self._selection(view, tower, entry_N, visual_N, found)

    def _text(self, view: ImageView) -> Tensor:
        if self.text_scores is not None:
            return self.text_scores(view)
        assert view.text_TD is not None
        return text_similarity(view.features_ND, view.text_TD.float().mean(dim=0))

    def _selection(
        self, view: ImageView, tower: TowerView, entry_N: Tensor, visual_N: Tensor, found: Recovered
    ) -> Selection:
        """Kept tokens in their places, clusters in those of their centres, the residual token in that of the
        most salient of the others."""
        kept = entry_N[found.kept_K]
        merged_MC = found.features_MC[len(kept) :]
        if not len(merged_MC):
            return Selection(kept)
        rest_R = entry_N[found.rest_R]
        other_R = visual_N[found.rest_R].scatter(0, found.centres_J, -torch.inf)
        index_K = torch.cat([kept, rest_R[found.centres_J], rest_R[other_R.argmax()][None]])
        merged_MD = tower.project(merged_MC).to(view.features_ND)
        return Selection(index_K, torch.cat([view.features_ND[kept], merged_MD]))


def _patches(tower: TowerView) -> tuple[Tensor, Tensor, Tensor]:
    """CLS attention (P,), keys (P, C) and features (P, C) of the patches of all tiles."""
    rows = [cls_row(q_LC[0], k_LC) for q_LC, k_LC in zip(tower.queries_TLC, tower.keys_TLC)]
    return torch.cat(rows), tower.keys_TLC[:, 1:].flatten(0, 1), tower.hidden_TNC.flatten(0, 1)
