"""The Jacobi window as a draft source: what a pass says of the slots behind the kept tokens drafts them anew.

A slot of the window stands for a position; its draft was drawn from a recorded law, and each pass brings a
new law, given the drafts before it. Drafts are only ever redrawn through a coupling, never chosen by looking
at the law they will be tested against, so that a slot's draft always has its recorded law.
Sources: Teng et al. 2024 (independent), MC-SJD and SJD-PAC 2025 (maximal coupling, alternatives).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.decoding.base import Draft, DraftSource, Run, Step, Verdict
from visgen.decoding.drafts.fresh import Fresh
from visgen.decoding.drafts.window import WindowShape
from visgen.decoding.rules import inverse_cdf, maximal_coupling, probability, race, removed
from visgen.decoding.shared_noise import PositionNoise, SharedNoiseVerifier


class JacobiSource(DraftSource):
    """Drafts of a window; a slot's first alternative is its draft, further ones are drawn without
    replacement.

    Args:
        shape: chain and alternatives.
        coupling: how old draft and new law give the new draft, "independent" or "maximal".
        fresh: laws of the slots that enter the window.
        interval: (first, end) positions where drafts are tested; others are drawn one per pass. None = all.
    """

    def __init__(
        self,
        shape: WindowShape,
        coupling: str,
        fresh: Fresh,
        interval: tuple[int, int | None] | None = None,
    ) -> None:
        self.shape, self.coupling, self.fresh, self.interval = shape, coupling, fresh, interval
        self.tokens: Tensor  # (B, C, K) drafts of the chain, at positions counts … counts + C − 1
        self.laws: Tensor  # (B, C, K, V) that they were drawn from

    def start(self, run: Run, step: Step, target_B1KV: Tensor) -> None:
        b, k, c = run.ids.shape[0], run.ids.shape[2], self.shape.length
        self._slots = torch.arange(c, device=run.ids.device)
        every = torch.arange(run.ids.shape[1], device=run.ids.device).expand(b, -1)
        self._formatted = bool((run.law.forced(every) >= 0).any())
        if c == 0:
            return
        self.fresh.see(run, run.counts[:, None] - 1, target_B1KV)
        positions = run.counts[:, None] + self._slots
        none = torch.zeros(b, c, dtype=torch.bool, device=run.ids.device)
        self.laws = self._fresh_laws(run, positions).expand(b, c, k, run.session.vocab_size)
        self.tokens = torch.zeros(b, c, k, dtype=torch.long, device=run.ids.device)
        self.tokens = self._redraw(run, positions, self.tokens, self.laws, self.laws, none)

    def propose(self, run: Run) -> Draft:
        b, n = run.ids.shape[0], self.shape.drafts
        if n == 0:
            empty = run.ids.new_zeros(b, 0, run.ids.shape[2])
            return Draft.chain(empty, torch.zeros(*empty.shape, run.session.vocab_size, device=empty.device))
        parents = self.shape.parents.expand(b, n)
        valid = self._in_interval(run).gather(1, self.shape.depths.expand(b, n) - 1)
        if self.shape.is_chain:
            return Draft(self.tokens, parents, self.laws, valid)
        level = self.shape.depths - 1
        ranked_BRCK, possible = self._alternatives(run)
        tokens = ranked_BRCK[:, self.shape.ranks, level]
        valid = valid & possible[:, self.shape.ranks, level]
        return Draft(tokens, parents, self.laws[:, level], valid)

    def update(self, run: Run, draft: Draft, step: Step, target_BNKV: Tensor, verdict: Verdict) -> None:
        c = self.shape.length
        if c == 0:
            return
        depth_BC = verdict.accepted[:, None] + self._slots + 1  # of the entry that speaks for a slot
        entries = self._way(verdict)
        spoken = _rows(target_BNKV, entries)
        self._show(run, spoken, verdict)
        positions = run.counts[:, None] + self._slots
        laws = _rows(spoken, depth_BC.clamp(max=c))
        known = self._known(depth_BC)
        fresh = self._fresh_laws(run, positions)
        laws = torch.where(known[..., None, None], laws, fresh)
        old = depth_BC.clamp(max=c - 1)  # draft at depth d + 1 is slot d of the old window
        self.tokens = self._redraw(
            run, positions, _rows(self.tokens, old), _rows(self.laws, old), laws, depth_BC < c
        )
        self.laws = laws

    def _known(self, depth_BC: Tensor) -> Tensor:
        """Which slots have a law from this pass, by the depth of the entry that would give it."""
        return depth_BC <= self.shape.length

    def _way(self, verdict: Verdict) -> Tensor:
        """(B, 1 + C) the entry of each depth that speaks for the position after it: those of the accepted
        path, then the way down from its end."""
        path = F.pad(verdict.path, (1, self.shape.length - verdict.path.shape[1]))  # the root first
        last = path.gather(1, verdict.accepted[:, None])
        depths = torch.arange(self.shape.length + 1, device=path.device)
        return torch.where(depths <= verdict.accepted[:, None], path, self.shape.descend[last.squeeze(1)])

    def _show(self, run: Run, spoken: Tensor, verdict: Verdict) -> None:
        """Hand all laws of the pass to the rule for new slots, by position."""
        before = run.counts - verdict.accepted - 1
        self.fresh.see(run, before[:, None] + torch.arange(spoken.shape[1], device=spoken.device), spoken)

    def _fresh_laws(self, run: Run, positions: Tensor) -> Tensor:
        """Laws of new slots; a token that the format forces is certain."""
        laws = self.fresh.laws(run, positions)
        if not self._formatted:
            return laws
        forced = run.law.forced(positions.clamp(max=run.ids.shape[1] - 1))[..., None]
        ids = torch.arange(run.session.vocab_size, device=positions.device)
        return torch.where(forced >= 0, (ids == forced).float(), laws)

    def _redraw(
        self, run: Run, positions: Tensor, old: Tensor, old_laws: Tensor, laws: Tensor, has_old: Tensor
    ) -> Tensor:
        """Drafts (B, C, K) of new laws; `has_old` (B, C) says which slots have a draft to keep."""
        u = run.noise.uniform(*old.shape, device=old.device)
        if self.coupling == "independent":
            return inverse_cdf(laws, u)
        keep, rest = maximal_coupling(old, old_laws, laws, run.noise.uniform(*old.shape, device=old.device))
        rest = torch.where(has_old[..., None, None], rest, laws)
        return torch.where(keep & has_old[..., None], old, inverse_cdf(rest, u))

    def _alternatives(self, run: Run) -> tuple[Tensor, Tensor]:
        """Tokens (B, R, C, K) by rank and whether there is such a token, (B, R, C)."""
        width, levels = self.shape.branching, self.shape.levels
        tokens = self.tokens[:, None].repeat(1, width, 1, 1)
        possible = torch.ones(tokens.shape[:3], dtype=torch.bool, device=tokens.device)
        u = run.noise.uniform(len(tokens), width - 1, levels, tokens.shape[3], device=tokens.device)
        law, drawn = self.laws[:, :levels], self.tokens[:, :levels]
        for rank in range(1, width):
            law = removed(law, drawn)
            drawn = inverse_cdf(law, u[:, rank - 1])
            tokens[:, rank, :levels] = drawn
            possible[:, rank, :levels] = (probability(law, drawn) > 0).all(-1)
        return tokens, possible

    def _in_interval(self, run: Run) -> Tensor:
        """(B, C) bool, which slots may be tested."""
        positions = run.counts[:, None] + self._slots
        if self.interval is None:
            return torch.ones_like(positions, dtype=torch.bool)
        first, end = self.interval
        inside = positions >= first
        return inside if end is None else inside & (positions < end)


class SharedNoiseSource(JacobiSource):
    """The window whose drafts and tokens race with one noise per position; the verifier shares it."""

    def __init__(self, shape: WindowShape, fresh: Fresh, verifier: SharedNoiseVerifier) -> None:
        super().__init__(shape, "shared", fresh)
        self._verifier = verifier

    def start(self, run: Run, step: Step, target_B1KV: Tensor) -> None:
        self._noise = PositionNoise(run)
        self._verifier.start(run, self._noise)
        super().start(run, step, target_B1KV)

    def _redraw(
        self, run: Run, positions: Tensor, old: Tensor, old_laws: Tensor, laws: Tensor, has_old: Tensor
    ) -> Tensor:
        return race(laws, self._noise.at(positions))

    def _alternatives(self, run: Run) -> tuple[Tensor, Tensor]:
        """The next in the race of each slot."""
        width, levels = self.shape.branching, self.shape.levels
        tokens = self.tokens[:, None].repeat(1, width, 1, 1)
        possible = torch.ones(tokens.shape[:3], dtype=torch.bool, device=tokens.device)
        noise = self._noise.at(run.counts[:, None] + self._slots[:levels])
        best = (self.laws[:, :levels] / noise).topk(min(width, noise.shape[-1]), dim=-1)
        for rank in range(1, width):
            if rank >= best.values.shape[-1]:
                possible[:, rank, :levels] = False
                continue
            tokens[:, rank, :levels] = best.indices[..., rank]
            possible[:, rank, :levels] = (best.values[..., rank] > 0).all(-1)
        return tokens, possible


def _rows(values: Tensor, index_BM: Tensor) -> Tensor:
    """values (B, N, …) at (B, M) of dimension 1."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, index_BM]
