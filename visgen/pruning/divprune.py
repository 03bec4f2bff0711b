"""DivPrune (arXiv 2503.02175): keep the most diverse visual tokens, whatever the question.

Selection reads the tokens as they enter the language model, uses no attention and no training. The greedy
order answers every budget at once: its first k tokens are the choice of k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.max_min import dense, lazy, unit_rows
from visgen.pruning.views import ImageView, Selection

# All distances at once up to so many entries: on a CPU 1,024 tokens, else 256 MiB of float32.
DENSE_ENTRIES = {"cpu": 2**20}
DENSE_ENTRIES_ELSEWHERE = 2**26


def divprune_count(ratio: float, n: int) -> int:
    """Tokens kept of n: round(ratio · n), halves to the even neighbour as in the released code, in [1, n].

    Raises:
        InputError: ratio outside (0, 1].
    """
    if not 0 < ratio <= 1:
        raise InputError(f"ratio={ratio} is no share of tokens; use one in (0, 1]")
    return min(max(round(ratio * n), 1), n)


def divprune_select(
    features_BND: Tensor, k: int, *, mask_BN: Tensor | None = None, strict: bool = True
) -> Tensor:
    """Indices (B, k) int64 in the order of choice: greedy max–min diversity under cosine distance.

    Scores are float32 whatever the features are. Ties go to the lowest index; a zero vector is at distance 1
    from every token. Many tokens are selected from few rows of the N × N distances.

    Args:
        features_BND: visual tokens of B images.
        k: how many, 1 … N.
        mask_BN: True = present, for images of different length; None = all. A row with n < k tokens gets
            its n in order, then −1.
        strict: never choose a token twice. False is the released code: once only duplicates of chosen tokens
            are left, token 0 comes again and again.

    Raises:
        InputError: no (B, N, D) features, or k out of range.
    """
    if features_BND.ndim != 3:
        raise InputError(f"features of shape {tuple(features_BND.shape)} are not (B, N, D)")
    b, n, _ = features_BND.shape
    if not 1 <= k <= n:
        raise InputError(f"k={k} of {n} visual tokens cannot be kept; use 1 to {n}")
    unit_BND = unit_rows(features_BND)
    entries = n * n if unit_BND.device.type == "cpu" else b * n * n
    if entries <= DENSE_ENTRIES.get(unit_BND.device.type, DENSE_ENTRIES_ELSEWHERE) or not strict:
        chosen = dense(unit_BND, k, mask_BN=mask_BN, strict=strict)
        return chosen if mask_BN is None else _drop_surplus(chosen, mask_BN)
    present = torch.ones_like(unit_BND[..., 0], dtype=torch.bool) if mask_BN is None else mask_BN
    return torch.stack([_one_image(unit, keep, k) for unit, keep in zip(unit_BND, present)])


def _drop_surplus(chosen_BK: Tensor, mask_BN: Tensor) -> Tensor:
    step = torch.arange(chosen_BK.shape[1], device=chosen_BK.device)
    return chosen_BK.where(step < mask_BN.sum(dim=1, keepdim=True), -1)


def _one_image(unit_ND: Tensor, mask_N: Tensor, k: int) -> Tensor:
    index = mask_N.nonzero()[:, 0]
    chosen = torch.full((k,), -1, device=unit_ND.device)
    count = min(k, len(index))
    if count:
        chosen[:count] = index[lazy(unit_ND[index], count)]
    return chosen


@dataclass(frozen=True)
class DivPrune(VisionTokenPruner):
    """Keep the most diverse tokens; images of one length are selected at once."""

    keep: int | float | None = 0.098

    def select(self, images: Sequence[ImageView]) -> list[Selection]:
        """See `VisionTokenPruner.select`."""
        groups: dict[int, list[int]] = {}
        for number, image in enumerate(images):
            groups.setdefault(len(image), []).append(number)
        found: dict[int, Selection] = {}
        for length, numbers in groups.items():
            features_BND = torch.stack([images[number].features_ND for number in numbers])
            chosen_BK = divprune_select(features_BND, self.budget(length))
            found |= {number: Selection(chosen) for number, chosen in zip(numbers, chosen_BK)}
        return [found[number] for number in range(len(images))]
