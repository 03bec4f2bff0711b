"""Verification without draws: the longest path of tokens that greedy decoding would take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.decoding.base import Draft, Verdict
from visgen.decoding.decision import rows_of
from visgen.decoding.relaxed import Neighbourhood
from visgen.nn.noise import Noise


@dataclass(frozen=True, eq=False)
class GreedyVerifier:
    """Keeps the longest path of most probable tokens, and draws nothing.

    With a neighbourhood a draft counts its neighbours, which keep theirs. Among paths of one length the one
    whose last entry has the smallest number is kept.

    The target's laws must be the whole ones, not cut to the most probable id: neighbours count by them.
    """

    near: Neighbourhood | None = None

    @property
    def lossless(self) -> bool:
        """Greedy decoding is kept as it is without neighbours."""
        return self.near is None or self.near.k == 0

    def __call__(self, target_BNKV: Tensor, draft: Draft, noise: Noise) -> Verdict:
        """See `visgen.decoding.base.Verifier`; `noise` is not used."""
        b, n = draft.parents.shape
        hits = draft.valid & self._hits(target_BNKV, draft)
        reached = torch.ones(b, n + 1, dtype=torch.bool, device=hits.device)
        for entry in range(1, n + 1):
            above = reached.gather(1, draft.parents[:, entry - 1 : entry]).squeeze(1)
            reached[:, entry] = above & hits[:, entry - 1]
        depths = F.pad(draft.depths, (1, 0))  # the root's is 0
        order = torch.arange(n, -1, -1, device=hits.device)  # the first of the deepest wins
        best = (reached * depths * (n + 1) + order).argmax(dim=1)
        path, accepted = _path_to(draft, best, depths)
        extra = rows_of(target_BNKV, best).argmax(dim=-1)
        tested = torch.arange(path.shape[1], device=path.device) <= accepted[:, None]
        return Verdict(path, accepted, extra, tested)

    def _hits(self, target_BNKV: Tensor, draft: Draft) -> Tensor:
        """(B, N): whether each draft would be the most probable token after its parent."""
        rows = torch.arange(len(target_BNKV), device=target_BNKV.device)[:, None]
        law = target_BNKV[rows, draft.parents]
        if self.near is not None:
            counted, _ = self.near.aggregate(law, draft.tokens)
            law = law.scatter(-1, draft.tokens.unsqueeze(-1), counted.unsqueeze(-1))
        return (law.argmax(dim=-1) == draft.tokens).all(dim=-1)


def _path_to(draft: Draft, node_B: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Entries (B, D) from the root's child to `node_B`, and how many."""
    accepted = rows_of(depths, node_B)
    path = torch.zeros_like(draft.parents)[:, : int(accepted.max())]
    for _ in range(path.shape[1]):
        level = rows_of(depths, node_B)
        index = (level - 1).clamp_min(0)[:, None]
        kept = torch.where(level > 0, node_B, path.gather(1, index).squeeze(1))
        path.scatter_(1, index, kept[:, None])
        above = rows_of(draft.parents, (node_B - 1).clamp_min(0))
        node_B = torch.where(level > 0, above, 0)
    return path, accepted
