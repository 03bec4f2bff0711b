"""A next-token model small enough to enumerate: order 2, position-dependent, guided, one table of logits."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visgen.decoding.base import Session, Step


class ToySession(Session):
    """Logits of the token at a position follow from the two tokens before it.

    Tokens of K sub-codes count as one state of V^K; state V^K stands before the beginning.

    Args:
        table: (2, L, S + 1, S + 1, K, V) logits given (second last, last) state; row 0 conditional, row 1
            not.
    """

    def __init__(self, batch_size: int, table: Tensor, guidance: float = 1.0) -> None:
        self.table = table[1] + guidance * (table[0] - table[1])
        self.length, self.start = self.table.shape[0], self.table.shape[1] - 1
        self.num_codes, self.vocab_size = self.table.shape[3:]
        self.batch_size, self.device = batch_size, torch.device("cpu")
        self.committed = torch.zeros(batch_size, dtype=torch.long)
        self.passes, self.fed = 0, 0
        self._last = torch.full((batch_size, 2), self.start)  # states of the last two committed tokens

    def prefill(self) -> Step:
        assert self.passes == 0
        self.passes += 1
        return Step(self.table[0, self.start, self.start].expand(self.batch_size, 1, -1, -1))

    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        self.passes += 1
        b, n, _ = tokens_BNK.shape
        self.fed = max(self.fed, n)
        if parents_BN is None:
            parents_BN = torch.arange(-1, n - 1).expand(b, n)
        states = torch.cat([self._last, self._states(tokens_BNK)], 1)  # entry i at 2 + i, parent −1 at 1
        before = states.gather(1, parents_BN + 2)
        depth = torch.zeros(b, n + 1, dtype=torch.long)
        for i in range(n):
            depth[:, i + 1] = depth.gather(1, parents_BN[:, i : i + 1] + 1).squeeze(1) + 1
        at = (self.committed[:, None] + depth[:, 1:]).clamp(max=self.length - 1)
        self._entries = (states[:, 2:], parents_BN)
        return Step(self.table[at, before, states[:, 2:]])

    def commit(self, index_BM: Tensor, counts_B: Tensor) -> None:
        states, parents = self._entries
        for step in range(int(counts_B.max())):
            row = (counts_B > step).nonzero().squeeze(1)
            entry = index_BM[row, step]
            expected = index_BM[row, step - 1] if step else torch.full_like(entry, -1)
            assert torch.equal(parents[row, entry], expected), "not a path"
            self._last[row] = torch.stack([self._last[row, 1], states[row, entry]], 1)
        self.committed = self.committed + counts_B
        assert int(self.committed.max()) < self.length

    def _states(self, tokens_BNK: Tensor) -> Tensor:
        assert int(tokens_BNK.min()) >= 0
        weights = self.vocab_size ** torch.arange(self.num_codes)
        return (tokens_BNK * weights).sum(-1)


@dataclass(frozen=True)
class ToyLaw:
    """Temperature and top-k; some positions are forced to one id."""

    top_k: int | None = None
    temperature: float = 1.0
    formats: dict[int, int] = field(default_factory=dict)

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
        logits = logits / self.temperature
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        law, forced = logits.softmax(-1), self.forced(positions).squeeze(2)
        one_hot = torch.nn.functional.one_hot(forced.clamp(min=0), law.shape[-1]).to(law)
        return torch.where((forced >= 0)[..., None, None], one_hot[:, :, None], law)

    def forced(self, positions: Tensor) -> Tensor:
        forced = torch.full_like(positions, -1)
        for position, token in self.formats.items():
            forced[positions == position] = token
        return forced[..., None]


def toy_table(length: int = 5, vocab: int = 3, codes: int = 1, seed: int = 0, scale: float = 1.2) -> Tensor:
    """Random logits for `ToySession`."""
    states = vocab**codes + 1
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, length, states, states, codes, vocab, generator=generator)


def sequence_law(table: Tensor, law: ToyLaw, guidance: float = 1.0) -> dict[tuple[int, ...], float]:
    """Probability of every sequence (L·K ids, sub-codes of a position together), in float64, by
    enumeration."""
    session = ToySession(1, table.double(), guidance)
    alphabet = list(itertools.product(range(session.vocab_size), repeat=session.num_codes))
    weights = [session.vocab_size**k for k in range(session.num_codes)]
    found: dict[tuple[int, ...], float] = {(): 1.0}
    states = {(): (session.start, session.start)}
    for position in range(session.length):
        grown, grown_states = {}, {}
        for prefix, mass in found.items():
            before = states[prefix]
            logits = session.table[position, before[0], before[1]][None, None]
            p = law(logits, torch.tensor([[position]]))[0, 0]
            for token in alphabet:
                chance = mass
                for code, value in enumerate(token):
                    chance *= float(p[code, value])
                name = prefix + token
                grown[name] = chance
                grown_states[name] = (before[1], sum(v * w for v, w in zip(token, weights)))
        found, states = grown, grown_states
    return found
