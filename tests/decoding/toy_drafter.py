"""A toy target that gives hidden states, and drafters of any quality beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.decoding.toy import ToySession
from visgen.decoding.base import Step


class ToyTarget(ToySession):
    """A `ToySession` whose hidden states are the last two states, which determine its logits."""

    def prefill(self) -> Step:
        states = self._last[:, None].float()
        return Step(super().prefill().logits, states)

    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        b, n, _ = tokens_BNK.shape
        if parents_BN is None:
            parents_BN = torch.arange(-1, n - 1).expand(b, n)
        states = torch.cat([self._last, self._states(tokens_BNK)], 1)
        hidden = torch.stack([states.gather(1, parents_BN + 2), states[:, 2:]], -1).float()
        return Step(super().extend(tokens_BNK, parents_BN).logits, hidden)


@dataclass
class ToyDrafter:
    """Knows the target's logits and multiplies them: 1 = perfect, 0 = knows nothing, −1 = as bad as can be.

    `sources` are the sessions that it gave.
    """

    quality: float
    sessions: list[ToyDrafterSession] = field(default_factory=list)

    def session(self, target: ToySession, entries: int) -> ToyDrafterSession:
        self.sessions.append(ToyDrafterSession(self.quality, target, entries))
        return self.sessions[-1]


class ToyDrafterSession:
    def __init__(self, quality: float, target: ToySession, entries: int) -> None:
        self.quality, self.target, self.entries = quality, target, entries
        self.passes = 0
        self.waiting = 0

    def start(self, hidden_RPC: Tensor, root_BK: Tensor) -> Step:
        self.counts = torch.ones(len(root_BK), dtype=torch.long)
        return self._say(root_BK[:, None], hidden_RPC[:, -1:], self.counts[:, None])

    def extend(
        self, tokens_BNK: Tensor, hidden_RNC: Tensor, depth: int, ancestors_BNM: Tensor, *, append: bool
    ) -> Step:
        n = tokens_BNK.shape[1]
        self.waiting = (self.waiting if append else 0) + n
        assert ancestors_BNM.shape == (len(tokens_BNK), n, self.waiting)
        assert bool((ancestors_BNM.sum(-1) == depth).all()), "a draft sees one ancestor per level, and itself"
        assert self.waiting <= self.entries
        return self._say(tokens_BNK, hidden_RNC, (self.counts[:, None] + depth).expand(-1, n))

    def accept(self, tokens_BMK: Tensor, hidden_RMC: Tensor, counts_B: Tensor) -> Step:
        assert tokens_BMK.shape[1] <= self.entries
        last = (counts_B - 1).clamp(min=0)
        row = torch.arange(len(last))
        self.counts = self.counts + counts_B
        return self._say(tokens_BMK[row, last][:, None], hidden_RMC[row, last][:, None], self.counts[:, None])

    def _say(self, tokens: Tensor, hidden: Tensor, positions: Tensor) -> Step:
        """Hidden (x_{t−1}, x_t) and the token x_{t+1} give (x_t, x_{t+1}), and so the logits."""
        self.passes += 1
        states = torch.stack([hidden[..., 1].long(), self.target._states(tokens)], -1)
        at = positions.clamp(max=self.target.length - 1)
        return Step(self.quality * self.target.table[at, states[..., 0], states[..., 1]], states.float())
