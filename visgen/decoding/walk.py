"""The walk down a tree of drafts: the children of a node are tested one after another, the first accepted one
is the next node. A `SiblingRule` says with what chance, and what a rejection leaves of the laws."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from visgen.decoding.base import Draft
from visgen.decoding.decision import Decision, position_law, rows_of, undecided
from visgen.errors import InputError

Laws = tuple[Tensor, ...]


class SiblingRule(Protocol):
    """Tests of the children of one node, batched over rows.

    `Laws` is the rule's own state: tensors (B, …). The first one is (B, K, V), the law of the extra token
    should no further child be accepted.
    """

    def begin(self, p_BKV: Tensor, q_BKV: Tensor | None, siblings_B: Tensor) -> Laws:
        """Before a node's first child: the target law after the node, the law that its children were drawn
        from (None = deterministic), and how many they are."""

    def ratio(self, laws: Laws, tokens_BK: Tensor) -> Tensor:
        """(B, K): chances of the next child's sub-codes; what exceeds 1 is 1."""

    def reject(self, laws: Laws, tokens_BK: Tensor) -> Laws:
        """What holds after that child was rejected."""


def walk(
    target_BNKV: Tensor, draft: Draft, uniforms_BNK: Tensor, rule: SiblingRule, *, inclusive: bool = False
) -> Decision:
    """Verify a tree of drafts per row; each round tests the next child of every row that has one.

    Args:
        target_BNKV: (B, 1 + N, K, V), target law after each entry.
        uniforms_BNK: (B, N, K); the t-th test of a row uses its t-th uniforms.
        inclusive: accept where u <= ratio instead of u < ratio.

    Raises:
        InputError: siblings with K > 1: what a rejected tuple leaves of a product law is no product law.
    """
    run = _Walk(target_BNKV, draft, rule)
    for test in range(draft.tokens.shape[1]):
        child, active = run.next_child()
        if not bool(active.any()):
            break
        run.test(child, active, uniforms_BNK[:, test].to(target_BNKV), inclusive)
    return run.decision()


class _Walk:
    """Where each row is, the laws there, and the tests so far."""

    def __init__(self, target_BNKV: Tensor, draft: Draft, rule: SiblingRule) -> None:
        b, n, k = draft.tokens.shape
        self.target, self.draft, self.rule = target_BNKV, draft, rule
        self.siblings = draft.valid.new_zeros(b, n + 1, dtype=torch.long)  # children of each entry
        self.siblings.scatter_add_(1, draft.parents, draft.valid.long())
        if k > 1 and bool((self.siblings > 1).any()):
            raise InputError(f"drafts with {k} sub-codes must be chains: no node may have two of them")
        self.node = self.siblings.new_zeros(b)
        self.last, self.level = self.node, self.node  # the entry tested last; drafts accepted
        self.fresh = torch.ones_like(self.node, dtype=torch.bool)  # the node has had no test
        self.laws: Laws | None = None
        self.path = self.siblings.new_zeros(b, n)
        self.tested = torch.zeros_like(self.path, dtype=torch.bool)
        self.entries: list[Tensor] = []
        self.ratios: list[Tensor] = []

    def next_child(self) -> tuple[Tensor, Tensor]:
        """The entry (B,) that comes next, and which rows have one."""
        draft = self.draft
        entry = torch.arange(1, draft.parents.shape[1] + 1, device=self.node.device)
        open_BN = draft.valid & (draft.parents == self.node[:, None]) & (entry > self.last[:, None])
        active = open_BN.any(dim=1)
        return torch.where(active, open_BN.long().argmax(dim=1) + 1, 0), active

    def test(self, child: Tensor, active: Tensor, u_BK: Tensor, inclusive: bool) -> None:
        """Accept or reject one child per active row."""
        draft, p = self.draft, rows_of(self.target, self.node)
        index = (child - 1).clamp_min(0)
        tokens = rows_of(draft.tokens, index)
        q = None if draft.laws is None else rows_of(draft.laws, index).to(p)
        begun = self.rule.begin(p, q, rows_of(self.siblings, self.node))
        laws = begun if self.laws is None else _select(self.fresh & active, begun, self.laws)
        ratio = self.rule.ratio(laws, tokens)
        hits_BK = u_BK <= ratio if inclusive else u_BK < ratio
        hit, miss = active & hits_BK.all(dim=1), active & ~hits_BK.all(dim=1)
        left, *others = self.rule.reject(laws, tokens)
        if tokens.shape[1] > 1:
            kept = hits_BK.long().cumprod(dim=1).sum(dim=1)
            first = rows_of(left, kept.clamp(max=tokens.shape[1] - 1))
            left = position_law(p, tokens, kept, first)
        self.laws = _select(miss, (left, *others), laws)
        self._record(child, active, hit, ratio)

    def _record(self, child: Tensor, active: Tensor, hit: Tensor, ratio: Tensor) -> None:
        self.entries.append(child)
        self.ratios.append(torch.where(active[:, None], ratio, 0))
        level = self.level.clamp(max=self.path.shape[1] - 1)[:, None]
        self.path.scatter_(1, level, torch.where(hit[:, None], child[:, None], self.path.gather(1, level)))
        self.tested.scatter_(1, level, self.tested.gather(1, level) | active[:, None])
        self.node = torch.where(hit, child, self.node)
        self.last = torch.where(active, child, self.last)
        self.level = self.level + hit
        self.fresh = torch.where(active, hit, self.fresh)

    def decision(self) -> Decision:
        """After the last test."""
        if self.laws is None:
            return undecided(self.target)
        law = torch.where(self.fresh[:, None, None], rows_of(self.target, self.node), self.laws[0])
        rounds = len(self.entries)
        path, tested = self.path[:, :rounds], self.tested[:, :rounds]
        entries, ratios = torch.stack(self.entries, dim=1), torch.stack(self.ratios, dim=1)
        return Decision(path, self.level, tested, law, entries, ratios)


def _select(rows_B: Tensor, new: Laws, old: Laws) -> Laws:
    """`new` where `rows_B` is True, tensor by tensor."""
    return tuple(torch.where(rows_B.view(-1, *[1] * (n.dim() - 1)), n, o) for n, o in zip(new, old))
