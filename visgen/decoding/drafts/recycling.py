"""Token recycling: drafts are the successors that tokens had last time, in a static tree (Luo et al. 2024).

Two tables per image hold the k most probable successors last seen of every token: of the token to the right,
    and of
the token below. Every scored entry fills them, kept or not.
"""

from __future__ import annotations

import heapq

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.decoding.base import Draft, DraftSource, Run, Step, Verdict
from visgen.decoding.drafts.window import WindowShape
from visgen.errors import InputError

# Acceptance of the successor of rank 0, 1, … that shapes the tree; only the order of their products matters.
RANK_CHANCES = (0.36, 0.14, 0.09, 0.065, 0.05, 0.04, 0.033, 0.028)
MAX_DEPTH = 6


def static_tree(drafts: int, width: int, depth: int = MAX_DEPTH) -> WindowShape:
    """The `drafts` nodes of largest product of `RANK_CHANCES` along their path, at most `width` siblings.

    Breadth first: parents before children, siblings by rank.
    """
    paths: list[tuple[int, ...]] = []
    heap: list[tuple[float, tuple[int, ...]]] = [
        (-chance, (rank,)) for rank, chance in enumerate(RANK_CHANCES[:width])
    ]
    heapq.heapify(heap)
    while heap and len(paths) < drafts:
        value, path = heapq.heappop(heap)
        paths.append(path)
        if len(path) < depth:
            for rank, chance in enumerate(RANK_CHANCES[:width]):
                heapq.heappush(heap, (value * chance, (*path, rank)))
    return WindowShape.of_paths(sorted(paths, key=lambda path: (len(path), path)))


class RecyclingSource(DraftSource):
    """Deterministic drafts read from the tables of the image.

    Args:
        shape: the tree.
        width: k, successors per token and table.
        stride: positions from a token to the one below it; None = no table of tokens above.
    """

    def __init__(self, shape: WindowShape, width: int, stride: int | None) -> None:
        self.shape, self.width, self.stride = shape, width, stride
        depths = shape.depths.tolist()
        levels = range(1, max(depths, default=0) + 1)
        self._levels = [[i for i, depth in enumerate(depths) if depth == level] for level in levels]

    def start(self, run: Run, step: Step, target_B1KV: Tensor) -> None:
        b, _, k = run.ids.shape
        v = run.session.vocab_size
        if k > 1:
            raise InputError(f"token recycling needs one code per position, and this model has {k}")
        self.width = min(self.width, v)
        # One row more than there are tokens: what must not be written goes there. -1 = never seen.
        self._right = torch.full((b, v + 1, self.width), -1, dtype=torch.int32, device=run.ids.device)
        self._below = self._right.clone() if self.stride else None
        self._latest = target_B1KV[:, -1, 0].topk(self.width).indices.int()

    def propose(self, run: Run) -> Draft:
        b, n = run.ids.shape[0], self.shape.drafts
        tokens = torch.zeros(b, n + 1, dtype=torch.long, device=run.ids.device)
        valid = torch.ones_like(tokens, dtype=torch.bool)
        tokens[:, 0] = run.root[:, 0]
        for level, nodes in enumerate(self._levels):
            index = torch.tensor(nodes, device=run.ids.device)
            parents = self.shape.parents[index]
            choices = self._successors(run, tokens[:, parents], level)  # (B, nodes, k)
            ranks = self.shape.ranks[index].expand(b, -1)[..., None]
            chosen = choices.gather(2, ranks.clamp(max=self.width - 1)).squeeze(2).long()
            tokens[:, index + 1] = chosen.clamp(min=0)
            valid[:, index + 1] = (chosen >= 0) & valid[:, parents] & (ranks.squeeze(2) < self.width)
        return Draft(tokens[:, 1:, None], self.shape.parents.expand(b, n), None, valid[:, 1:])

    def _successors(self, run: Run, tokens_BM: Tensor, level: int) -> Tensor:
        """(B, M, k) candidates after tokens at `counts − 1 + level`, the likeliest first, each once; -1 =
        none."""
        rows = torch.arange(len(tokens_BM), device=tokens_BM.device)[:, None]
        right = self._right[rows, tokens_BM]
        latest = self._latest[:, None].expand_as(right)
        lists = [torch.where(right[..., :1] >= 0, right, latest)]
        if self._below is not None and self.stride is not None:
            at = (run.counts + level - self.stride)[:, None]
            decided = (at >= 0) & (at < run.counts[:, None])
            above = run.ids.squeeze(2).gather(1, at.clamp(0, run.ids.shape[1] - 1))
            below = self._below[rows, torch.where(decided, above, run.session.vocab_size)]
            lists.append(below.expand_as(right))
        return _once(torch.stack(lists, -1).flatten(-2))[..., : self.width]

    def update(self, run: Run, draft: Draft, step: Step, target_BNKV: Tensor, verdict: Verdict) -> None:
        best = target_BNKV[:, :, 0].topk(self.width)
        likeliest = torch.where(best.values > 0, best.indices, -1).int()  # (B, 1 + N, k)
        self._latest = likeliest.gather(
            1, _last_kept(verdict)[:, None, None].expand(-1, 1, self.width)
        ).squeeze(1)
        before = (run.counts - verdict.accepted - 2).clamp(min=0)[
            :, None
        ]  # position of the root that was fed
        root = run.ids.squeeze(2).gather(1, before)
        fed, scored = torch.cat([root, draft.tokens[..., 0]], 1), F.pad(draft.valid, (1, 0), value=True)
        self._write(self._right, fed, likeliest, scored)
        if self._below is not None and self.stride is not None:
            at = before + F.pad(self.shape.depths, (1, 0)) + 1 - self.stride
            decided = scored & (at >= 0) & (at < run.counts[:, None])
            above = run.ids.squeeze(2).gather(1, at.clamp(0, run.ids.shape[1] - 1))
            self._write(self._below, above, likeliest, decided)

    def _write(self, table: Tensor, keys_BM: Tensor, values: Tensor, ok: Tensor) -> None:
        """The last of equal keys counts, on every device."""
        m = keys_BM.shape[1]
        later = torch.ones(m, m, dtype=torch.bool, device=ok.device).triu(1)
        again = ((keys_BM[:, :, None] == keys_BM[:, None]) & later & ok[:, None]).any(2)
        keys = torch.where(ok & ~again, keys_BM, table.shape[1] - 1)
        table.scatter_(1, keys[..., None].expand_as(values), values)
        table[:, -1] = -1


def _last_kept(verdict: Verdict) -> Tensor:
    """(B,) the entry of the last accepted draft, or the root."""
    return F.pad(verdict.path, (1, 0)).gather(1, verdict.accepted[:, None]).squeeze(1)


def _once(ids: Tensor) -> Tensor:
    """Candidates (…, M) without repetitions and gaps, in order; -1 at the end."""
    m = ids.shape[-1]
    earlier = torch.ones(m, m, dtype=torch.bool, device=ids.device).tril(-1)
    drop = ((ids[..., :, None] == ids[..., None, :]) & earlier).any(-1) | (ids < 0)
    order = drop.long().argsort(dim=-1, stable=True)
    return torch.where(drop, -1, ids).gather(-1, order)
