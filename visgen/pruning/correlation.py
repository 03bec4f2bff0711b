"""Token-level correlation-guided compression (arXiv 2407.14439) as pure functions.

How many tokens of a sub-image stay follows from how many have many look-alikes; which ones, from the
attention of CLS; the others may be averaged into the kept token that is most like them. The paper publishes
no code and no numbers: thresholds and ties are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.noise import Noise

ROWS = 1024  # of the N × N similarities at once: 40 MB of float32 for N = 10,000


@dataclass(frozen=True, eq=False)
class Grouped:
    """Kept tokens of one sub-image and what belongs to each.

    Attributes:
        keep_K: int64, ascending.
        assign_N: which entry of `keep_K` each token belongs to.
        sizes_K: how many tokens that are, itself among them.
    """

    keep_K: Tensor
    assign_N: Tensor
    sizes_K: Tensor

    def means(self, features_ND: Tensor) -> Tensor:
        """(K, D): plain means over each kept token and what belongs to it."""
        sums_KD = features_ND.new_zeros(len(self.keep_K), features_ND.shape[1], dtype=torch.float32)
        sums_KD.index_add_(0, self.assign_N, features_ND.float())
        return (sums_KD / self.sizes_K[:, None]).to(features_ND.dtype)


def redundant_tokens(keys_NC: Tensor, similarity: float, fraction: float) -> Tensor:
    """(N,) bool: tokens whose key is alike more than `similarity` (cosine) to at least `fraction` of the
    other tokens', and to one at least."""
    similar_N = [(rows > similarity).sum(dim=1) for rows in _similarities(keys_NC)]
    partners_N = torch.cat(similar_N)
    return partners_N >= max(1, math.ceil(fraction * (len(keys_NC) - 1)))


def _similarities(keys_NC: Tensor) -> Iterator[Tensor]:
    """Cosine of all pairs, some rows at a time; −inf with itself, which is no partner."""
    unit_NC = F.normalize(keys_NC.float(), dim=-1)
    for first, rows_RC in zip(range(0, len(unit_NC), ROWS), unit_NC.split(ROWS)):
        similarity_RN = rows_RC @ unit_NC.T
        similarity_RN.diagonal(first).fill_(-torch.inf)
        yield similarity_RN


def density_budget(redundant_N: Tensor) -> int:
    """How many tokens stay: as many as are not redundant, one at least."""
    return max(1, len(redundant_N) - int(redundant_N.sum()))


def ratio_budget(ratio: float, n: int) -> int:
    """⌈ratio · n⌉ in [1, n].

    Raises:
        InputError: ratio outside (0, 1].
    """
    if not 0 < ratio <= 1:
        raise InputError(f"ratio={ratio} is no share of tokens; use one in (0, 1]")
    return min(max(math.ceil(ratio * n), 1), n)


def informative_tokens(scores_N: Tensor, k: int, noise: Noise | None = None) -> Tensor:
    """(k,) int64 ascending: the tokens with the highest scores, or k drawn without replacement.

    Args:
        scores_N: attention of CLS, not negative.
        noise: of this one sub-image; None = no draw.
    """
    if noise is not None:  # the exponential race of Noise.categorical, its k first ones
        scores_N = scores_N.float() / noise.exponential(1, len(scores_N), device=scores_N.device)[0]
    return scores_N.topk(k).indices.sort().values


def grouped(keys_NC: Tensor, keep_K: Tensor) -> Grouped:
    """Each token to the kept one with the most similar key, the lowest of equal ones; kept ones to
    themselves."""
    assign_N = torch.cat([rows[:, keep_K].argmax(dim=1) for rows in _similarities(keys_NC)])
    assign_N[keep_K] = torch.arange(len(keep_K), device=keep_K.device)
    return Grouped(keep_K, assign_N, assign_N.bincount(minlength=len(keep_K)))
