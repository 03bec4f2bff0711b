"""Token-level correlation-guided compression (arXiv 2407.14439) as a pruner; see `correlation`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError, shown
from visgen.nn.noise import Noise
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.correlation import density_budget, grouped, informative_tokens, redundant_tokens
from visgen.pruning.patches import all_entries, line_ends, patch_entries, tower_of
from visgen.pruning.views import ImageView, Selection, TowerView


@dataclass(frozen=True)
class TokenCorr(VisionTokenPruner):
    """Each sub-image keeps as many tokens as it has information, those that the tower looks at most.

    Line ends stay. Where the projector pools patches (InternVL), its inputs stand for their keys. Thresholds
    are this project's: the paper publishes none.

    Args:
        keep: share of the tokens of each compressed sub-image, or a count for all of them, shared by size;
            None = as their density says.
        similarity: cosine of two keys above which tokens are alike.
        fraction: share of the other tokens from which on look-alikes make a token redundant.
        average: replace a kept token by the mean of itself and the dropped ones most like it.
        compress_global: also compress the thumbnail beside crops (or InternVL's last tile).
        seed: draw tokens by their scores instead of taking the best; None = take the best.
    """

    keep: int | float | None = None
    similarity: float = 0.7
    fraction: float = 0.1
    average: bool = True
    compress_global: bool = False
    seed: int | None = None

    needs = frozenset({"tower", "scores"})
    own_criterion = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("similarity", -1), ("fraction", 0)):
            if not least <= getattr(self, name) <= 1:
                raise InputError(f"{name}={shown(getattr(self, name))} must be in [{least}, 1]")

    def select(self, images: Sequence[ImageView]) -> list[Selection]:
        """See `VisionTokenPruner.select`."""
        return [self._one(image) for image in images]

    def _one(self, view: ImageView) -> Selection:
        tower = tower_of(view, "tokencorr")
        parts = list(_sub_images(view, tower))
        whole = None if self.compress_global or len(parts) == 1 else _global_tile(tower)
        size = sum(len(entry_N) for tile, (entry_N, _) in enumerate(parts) if tile != whole)
        index, features = [line_ends(view, tower)], [view.features_ND[line_ends(view, tower)]]
        for tile, (entry_N, keys_NC) in enumerate(parts):
            if tile == whole or not len(entry_N):
                index.append(entry_N)
                features.append(view.features_ND[entry_N])
                continue
            kept, means = self._compressed(view, tile, entry_N, keys_NC, size)
            index.append(kept)
            features.append(means)
        index_K = torch.cat(index)
        if len(index_K) == len(view):
            return Selection(all_entries(view))
        return Selection(index_K, torch.cat(features) if self.average else None)

    def _compressed(
        self, view: ImageView, tile: int, entry_N: Tensor, keys_NC: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """Kept entries of a sub-image, ascending, and the means of what belongs to each."""
        assert view.scores_N is not None
        k = self._count(keys_NC, size)
        noise = None
        if self.seed is not None:
            noise = Noise.per_image([(self.seed, view.ordinal)], stream=f"tile {tile}")
        groups = grouped(keys_NC, informative_tokens(view.scores_N[entry_N], k, noise))
        return entry_N[groups.keep_K], groups.means(view.features_ND[entry_N])

    def _count(self, keys_NC: Tensor, size: int) -> int:
        """Of `size` tokens of all compressed sub-images those that this one keeps."""
        if self.keep is None:
            return density_budget(redundant_tokens(keys_NC, self.similarity, self.fraction))
        return min(max(round(self.budget(size) * len(keys_NC) / size), 1), len(keys_NC))


def _sub_images(view: ImageView, tower: TowerView) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each tile the entries of the view, ascending, and their keys."""
    entry_TN = patch_entries(view, tower).view(tower.hidden_TNC.shape[:2])
    keys_TNC = tower.keys_TLC[:, int(tower.has_cls) :]
    if keys_TNC.shape[1] != entry_TN.shape[1]:
        keys_TNC = tower.hidden_TNC
    for entry_N, keys_NC in zip(entry_TN, keys_TNC):
        shown = entry_N >= 0
        yield entry_N[shown], keys_NC[shown]


def _global_tile(tower: TowerView) -> int:
    """LLaVA-NeXT puts the thumbnail first; InternVL, which gives no canvas, last."""
    return 0 if tower.canvas != (1, 1) else len(tower.hidden_TNC) - 1
