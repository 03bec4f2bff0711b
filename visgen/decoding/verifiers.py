"""Exact verifiers: what they keep has the target's law, whatever the drafts are worth.

`chain`: token by token (Leviathan et al. 2023; Chen et al. 2023). `block`: the same drafts, never fewer
tokens (Sun et al. 2024). `recursive`: several drafts per position, in a tree (SpecInfer; Jeon et al. 2024).
`kseq`: i.i.d. drafts at a position (SpecTr, Sun et al. 2023). K sub-codes of a position are tested one after
another: each of them is a token of its own whose law depends on none of the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.decoding.base import Draft
from visgen.decoding.decision import DecidingVerifier, Decision, position_law, rows_of, undecided
from visgen.decoding.rules import (
    acceptance,
    accepted_run,
    block_thresholds,
    block_weights,
    kseq_residual,
    kseq_rho,
    normalised,
    one_hot,
    probability,
    removed,
    residual,
    without,
)
from visgen.decoding.walk import Laws, walk
from visgen.errors import InputError


@dataclass(frozen=True)
class _Chain:
    """Drafts in one line, their sub-codes in a row: L = N · K tokens, one after another."""

    p_BLV: Tensor  # (B, L + K, V)
    q_BLV: Tensor | None
    tokens_BL: Tensor
    lengths_B: Tensor  # sub-codes before the first draft that is padding
    codes: int

    @classmethod
    def of(cls, target_BNKV: Tensor, draft: Draft) -> _Chain:
        if not draft.is_chain:
            raise InputError("draft is a tree, but this verifier walks chains; RecursiveVerifier walks trees")
        k = draft.tokens.shape[2]
        laws = None if draft.laws is None else draft.laws.flatten(1, 2).to(target_BNKV)
        lengths = accepted_run(draft.valid) * k
        return cls(target_BNKV.flatten(1, 2), laws, draft.tokens.flatten(1, 2), lengths, k)

    def decide(self, target_BNKV: Tensor, kept_B: Tensor, law_BV: Tensor, ratios_BL: Tensor) -> Decision:
        """`kept_B` sub-codes stay, the next one has `law_BV`."""
        b, n = len(kept_B), self.tokens_BL.shape[1] // self.codes
        accepted, part = kept_B // self.codes, kept_B % self.codes
        tokens = rows_of(self.tokens_BL.view(b, n, self.codes), accepted.clamp(max=n - 1))
        law = position_law(rows_of(target_BNKV, accepted), tokens, part, law_BV)
        depth = torch.arange(n, device=kept_B.device).expand(b, n)
        tested = (depth <= accepted[:, None]) & (depth * self.codes < self.lengths_B[:, None])
        entries = torch.where(tested, depth + 1, 0)
        return Decision(depth + 1, accepted, tested, law, entries, ratios_BL.view(b, n, self.codes))


class ChainVerifier(DecidingVerifier):
    """Token by token: x_i stays where u_i < min(1, p_i(x_i) / q_i(x_i)); the first rejected one is redrawn
    from [p_i − q_i]+.

    With deterministic drafts the chance is p_i(x_i), and the residual p_i without x_i.
    """

    def decide(self, target_BNKV: Tensor, draft: Draft, uniforms_BNK: Tensor) -> Decision:
        if draft.tokens.shape[1] == 0:
            return undecided(target_BNKV)
        chain = _Chain.of(target_BNKV, draft)
        length = chain.tokens_BL.shape[1]
        chance = probability(chain.p_BLV[:, :length], chain.tokens_BL)
        if chain.q_BLV is not None:
            chance = acceptance(chance, probability(chain.q_BLV, chain.tokens_BL))
        inside = torch.arange(length, device=chance.device) < chain.lengths_B[:, None]
        kept = accepted_run((uniforms_BNK.flatten(1).to(chance) < chance) & inside)
        p, index = rows_of(chain.p_BLV, kept), kept.clamp(max=length - 1)
        if chain.q_BLV is None:
            left = without(p, rows_of(chain.tokens_BL, index))
        else:
            left = residual(p, rows_of(chain.q_BLV, index))
        law = torch.where((kept < chain.lengths_B)[:, None], left, p)
        return chain.decide(target_BNKV, kept, law, chance)


class BlockVerifier(DecidingVerifier):
    """Block verification: the longest prefix whose joint chance is not used up stays; on average at least as
    many tokens as `ChainVerifier`.

    Exact only for drafts whose laws do not depend on what becomes of earlier drafts: not with tails that are
    coupled from pass to pass (speculative.md 1b).
    """

    def decide(self, target_BNKV: Tensor, draft: Draft, uniforms_BNK: Tensor) -> Decision:
        if draft.tokens.shape[1] == 0:
            return undecided(target_BNKV)
        chain = _Chain.of(target_BNKV, draft)
        p, tokens, lengths = chain.p_BLV, chain.tokens_BL, chain.lengths_B
        length = tokens.shape[1]
        q = one_hot(tokens, p) if chain.q_BLV is None else chain.q_BLV
        weights = block_weights(p, q, tokens)
        thresholds = block_thresholds(p[:, : length + 1], q, weights, lengths)
        index = torch.arange(1, length + 1, device=p.device)
        kept = torch.where(uniforms_BNK.flatten(1).to(p) < thresholds, index, 0).amax(dim=1)
        after, weight = rows_of(p, kept), rows_of(weights, kept)[:, None]
        left = (weight * after - rows_of(q, kept.clamp(max=length - 1))).clamp_min(0)
        law = torch.where((kept < lengths)[:, None], normalised(left, after), after)
        return chain.decide(target_BNKV, kept, law, thresholds)


@dataclass(frozen=True)
class RecursiveRule:
    """Recursive rejection: after a rejection p becomes [p − q]+, and without replacement q loses the tested
    token.

    Deterministic drafts (no law): chance p(x), then p loses x.
    """

    replacement: bool = False

    def begin(self, p_BKV: Tensor, q_BKV: Tensor | None, siblings_B: Tensor) -> Laws:
        return (p_BKV,) if q_BKV is None else (p_BKV, q_BKV)

    def ratio(self, laws: Laws, tokens_BK: Tensor) -> Tensor:
        chance = probability(laws[0], tokens_BK)
        return chance if len(laws) == 1 else acceptance(chance, probability(laws[1], tokens_BK))

    def reject(self, laws: Laws, tokens_BK: Tensor) -> Laws:
        if len(laws) == 1:
            return (without(laws[0], tokens_BK),)
        p, q = laws
        return residual(p, q), q if self.replacement else removed(q, tokens_BK)


@dataclass(frozen=True)
class RecursiveVerifier(DecidingVerifier):
    """Walks a tree of drafts per row; on a chain it is `ChainVerifier`.

    Args:
        replacement: whether siblings were drawn independently of each other. False: each from what its elder
            siblings left of the law, in the order of their numbers.
    """

    replacement: bool = False

    def decide(self, target_BNKV: Tensor, draft: Draft, uniforms_BNK: Tensor) -> Decision:
        return walk(target_BNKV, draft, uniforms_BNK, RecursiveRule(self.replacement))


class KSeqRule:
    """K-SEQ: i.i.d. siblings are accepted with chance p(x) / (ρ q(x)), (1 − 1/e) of the best possible at
    ρ*."""

    def begin(self, p_BKV: Tensor, q_BKV: Tensor | None, siblings_B: Tensor) -> Laws:
        if q_BKV is None:
            raise InputError("draft.laws=None, but K-SEQ needs the law that the siblings were drawn from")
        drafts = siblings_B.clamp_min(1)[:, None].expand(p_BKV.shape[:2])
        rho = kseq_rho(p_BKV, q_BKV, drafts)
        return p_BKV, p_BKV, q_BKV, rho, kseq_residual(p_BKV, q_BKV, rho, drafts)

    def ratio(self, laws: Laws, tokens_BK: Tensor) -> Tensor:
        _, p, q, rho, _ = laws
        return acceptance(probability(p, tokens_BK) / rho, probability(q, tokens_BK))

    def reject(self, laws: Laws, tokens_BK: Tensor) -> Laws:
        return laws[4], *laws[1:]


class KSeqVerifier(DecidingVerifier):
    """SpecTr: a tree whose siblings were drawn independently of each other, node by node."""

    def decide(self, target_BNKV: Tensor, draft: Draft, uniforms_BNK: Tensor) -> Decision:
        return walk(target_BNKV, draft, uniforms_BNK, KSeqRule())
