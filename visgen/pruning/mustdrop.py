"""MustDrop (arXiv 2411.10803) drops tokens while pictures are encoded, prompts read, and answers written.

In the vision tower windows of like patches become one; after some decoder layers tokens that the text does
not attend to are dropped, except those that CLS attends to most; after the prefill the caches of earlier
layers are cut to what was left in the end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError, shown
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.dual_attention import dual_attention_filter, most_attended, with_keys
from visgen.pruning.spatial_merge import key_tokens, spatial_merge
from visgen.pruning.views import ImageView, LayerView, Merged, Selection

STAGES, LAYERS = (2, 6, 10, 14), 32  # the released code's, for models of 32 layers
KEYS, ENTERED, SLOTS = "mustdrop.keys", "mustdrop.entered", "mustdrop.slots"


@dataclass(frozen=True)
class MustDrop(VisionTokenPruner):
    """Merge in the tower, filter by text attention, cut caches.

    The defaults leave about 128 of LLaVA-1.5's 576 tokens on average over the layers; the paper's other
    thresholds are 0.001, 0.001 (192) and 0.011, 0.01 (64). `positions="compact"`, `order="rank"` are the
    released code. All tiles of a batch merge as many windows as the one with fewest, so a picture may be cut
    otherwise beside others; `merge_threshold=None` avoids that. One token at least stays.

    Args:
        keep: tokens of the sample that reach the last layer, as a fraction of its places or a count, by rank
            of text attention; the key set stays even if it is more. None = the two thresholds decide.
        global_threshold: share of the text's attention to all image tokens below which a token may go.
        individual_threshold: attention from any one text token below which a token may go.
        key_rate: share of an image's tokens that never goes.
        merge_threshold: similarity of a window from which on it merges, [−1, 1]; None = no merge.
        window: patches on a side of a window; the grid must be a multiple of it.
        after: layers after which tokens are dropped; None = 2, 6, 10, 14 of 32, in proportion for others.
    """

    keep: int | float | None = None
    global_threshold: float = 0.0012
    individual_threshold: float = 0.001
    key_rate: float = 0.08
    merge_threshold: float | None = 0.8
    window: int = 3
    after: tuple[int, ...] | None = None

    needs = frozenset({"scores"})
    attention_rows = "text"
    own_criterion = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.key_rate <= 1:
            raise InputError(f"key_rate={shown(self.key_rate)} must be a share in (0, 1], such as 0.08")
        if self.window < 1:
            raise InputError(f"window={shown(self.window)} must be a number of patches from 1 on, such as 3")

    @property
    def tower_layer(self) -> int | None:
        """See `VisionTokenPruner.tower_layer`: the first layer."""
        return None if self.merge_threshold is None else 0

    def merge(self, hidden_BLD: Tensor) -> Merged:
        """See `VisionTokenPruner.merge`."""
        assert self.merge_threshold is not None
        length = hidden_BLD.shape[1]
        found = spatial_merge(
            hidden_BLD,
            threshold=self.merge_threshold,
            window=(self.window, self.window),
            has_cls=math.isqrt(length) ** 2 != length,  # no square follows another
        )
        return Merged(found.hidden_BMD, found.sources_BM)

    def select(self, images: Sequence[ImageView]) -> list[Selection]:
        """Drops nothing; remembers the key set of each image, by number in the sample."""
        for image in images:
            notes = image.notes
            before = notes.get(ENTERED, 0)
            keys = self._keys(image) + before
            notes[KEYS] = torch.cat([notes[KEYS], keys]) if KEYS in notes else keys
            notes[ENTERED] = before + len(image)
            notes[SLOTS] = notes.get(SLOTS, 0) + image.num_slots
        return [Selection(torch.arange(len(image), device=image.slots_N.device)) for image in images]

    def _keys(self, image: ImageView) -> Tensor:
        """The key set as places in the order in which the image's tokens will stand."""
        assert image.scores_N is not None
        real_M = image.scores_N.isfinite().nonzero()[:, 0]  # line ends are no patches
        keys_K = real_M[key_tokens(image.scores_N[real_M][None], self.key_rate)[0]]
        place_N = image.slots_N.argsort().argsort() if self.order == "index" else torch.arange(len(image))
        return place_N.to(keys_K.device)[keys_K]

    def layers(self, num_layers: int) -> Collection[int]:
        """See `VisionTokenPruner.layers`."""
        if self.after is not None:
            return self.after
        return sorted({stage * num_layers // LAYERS for stage in STAGES})

    def filter(self, view: LayerView) -> Tensor:
        """See `VisionTokenPruner.filter`."""
        if view.notes.get(ENTERED) != view.num_tokens:
            raise InputError(
                "MustDrop must be the last pruner of a chain that drops before the language model"
            )
        assert view.attention_HTN is not None
        attention_TN = view.attention_HTN.mean(dim=0)
        if self.keep is None:
            kept = dual_attention_filter(attention_TN, self.global_threshold, self.individual_threshold)
        else:
            kept = most_attended(attention_TN, min(self.budget(view.notes[SLOTS]), len(view)))
        keys = torch.searchsorted(view.token_N, view.notes[KEYS].to(view.token_N.device).sort().values)
        left = with_keys(kept.to(keys.device), keys)
        return left if len(left) else most_attended(attention_TN, 1)

    def cut_cache(self, num_layers: int) -> Collection[int]:
        """See `VisionTokenPruner.cut_cache`: every cache that holds more, but those above the first stage."""
        stages = sorted(self.layers(num_layers))
        return range(stages[0], stages[-1] + 1)
