"""Decisions on drafts: what is accepted, and the law of the extra token before it is drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.decoding.base import Draft, Verdict
from visgen.decoding.rules import one_hot
from visgen.nn.noise import Noise


@dataclass(frozen=True, eq=False)
class Decision:
    """How far drafts are right, and the law of the extra token.

    Attributes:
        path, accepted, tested: as in `Verdict`.
        law: (B, K, V), of the extra token's sub-codes.
        entries: (B, T) int64, the drafts in the order of their tests; 0 = no test.
        ratios: (B, T, K), what their uniforms were compared with.
    """

    path: Tensor
    accepted: Tensor
    tested: Tensor
    law: Tensor
    entries: Tensor
    ratios: Tensor


class DecidingVerifier(ABC):
    """A verifier in two steps: uniforms decide what is accepted, then the extra token is drawn.

    Draws per row and call: N · K uniforms, then K · V exponentials.
    """

    lossless: bool = True

    @abstractmethod
    def decide(self, target_BNKV: Tensor, draft: Draft, uniforms_BNK: Tensor) -> Decision:
        """Apply the rule: `uniforms_BNK` (B, N, K) in [0, 1), one per test and sub-code, in the order of
        tests. Works in the dtype of `target_BNKV`."""

    def __call__(self, target_BNKV: Tensor, draft: Draft, noise: Noise) -> Verdict:
        """See `visgen.decoding.base.Verifier`."""
        uniforms = noise.uniform(*draft.tokens.shape, device=target_BNKV.device)
        decision = self.decide(target_BNKV, draft, uniforms)
        extra = noise.categorical(decision.law)
        return Verdict(decision.path, decision.accepted, extra, decision.tested)


def rows_of(tensor: Tensor, index_B: Tensor) -> Tensor:
    """(B, …): one entry of (B, N, …) for each row."""
    return tensor[torch.arange(len(tensor), device=tensor.device), index_B]


def undecided(target_BNKV: Tensor) -> Decision:
    """The decision on no draft at all: the extra token has the law after the root."""
    b, _, k, _ = target_BNKV.shape
    nothing = torch.zeros(b, 0, dtype=torch.long, device=target_BNKV.device)
    law = target_BNKV[:, 0]
    ratios = law.new_zeros(b, 0, k)
    return Decision(nothing, nothing.sum(dim=1), nothing.bool(), law, nothing, ratios)


def position_law(p_BKV: Tensor, tokens_BK: Tensor, kept_B: Tensor, law_BV: Tensor) -> Tensor:
    """Law (B, K, V) of a position whose first `kept_B` sub-codes stay as drafted: the next one has `law_BV`,
    the later ones, which depend on none of them, the target's law."""
    k = torch.arange(p_BKV.shape[1], device=p_BKV.device)[:, None]
    kept, law = kept_B[:, None, None], law_BV[:, None].to(p_BKV)
    later = torch.where(k == kept, law, p_BKV)
    return later if p_BKV.shape[1] == 1 else torch.where(k < kept, one_hot(tokens_BK, p_BKV), later)
