"""GlobalCom² (arXiv 2501.05179) as a pruner of LLaVA-NeXT's crops; the mathematics is `globalcom2_scores`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.pruning.anyres import Canvas
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.globalcom2_scores import all_crop_tokens, thumbnail_tokens
from visgen.pruning.patches import all_entries, check_patches, line_ends, patch_entries, tower_of
from visgen.pruning.views import ImageView, Selection, TowerView


@dataclass(frozen=True)
class GlobalCom2(VisionTokenPruner):
    """The thumbnail says how much of each crop stays, and with the crop's own scores, what.

    Line ends stay, and tokens stand where they were; the released code misplaces those of padded pictures. A
    picture of one tile is pruned as a thumbnail, which the released code leaves whole.

    Args:
        keep: retention ratio of the thumbnail and, on average, of the crops; each part rounds down. A count
            is taken for the ratio of it to all tokens. Everything stays where that is 1.
    """

    keep: int | float | None = 0.25

    needs = frozenset({"tower"})

    def select(self, images: Sequence[ImageView]) -> list[Selection]:
        """See `VisionTokenPruner.select`."""
        return [self._one(image) for image in images]

    def _one(self, view: ImageView) -> Selection:
        tower = tower_of(view, "globalcom2")
        check_patches(tower, "globalcom2")
        if self.budget(len(view)) == len(view):
            return Selection(all_entries(view))
        ratio = self.keep if isinstance(self.keep, float) else self.budget(len(view)) / len(view)
        patch_K = self._patches(tower, ratio)
        entry_P = patch_entries(view, tower)
        thumbnail, crops = (entry_P[part.to(entry_P.device)] for part in patch_K)
        rest = torch.cat([crops, line_ends(view, tower)]).sort().values
        index_K = torch.cat([thumbnail, rest])
        return Selection(index_K[index_K >= 0])

    def _patches(self, tower: TowerView, ratio: float) -> tuple[Tensor, Tensor]:
        """Kept patches of the thumbnail by rank, and of the crops, numbered over all tiles."""
        scores_TN = tower.cls_logits()
        tiles, n = scores_TN.shape
        thumbnail = thumbnail_tokens(scores_TN[0], ratio)
        if not len(thumbnail):
            thumbnail = scores_TN[0].argmax()[None]  # of a picture something stays
        if tiles == 1:
            return thumbnail, thumbnail[:0]
        canvas = Canvas(*tower.canvas, math.isqrt(n))
        if canvas.side**2 != n or canvas.rows * canvas.columns != tiles - 1:
            raise InputError(
                f"globalcom2 needs a thumbnail and a grid of square crops, not {tiles} tiles of {n}"
            )
        shown = tower.patch_N[tower.patch_N >= n] - n
        region = canvas.bounds(canvas.places(shown // n, shown % n))
        kept, seen = all_crop_tokens(scores_TN[0], scores_TN[1:], canvas, region, ratio)
        crops = [(crop + 1) * n + s[k] for crop, (s, k) in enumerate(zip(seen, kept))]
        return thumbnail, torch.cat(crops)
