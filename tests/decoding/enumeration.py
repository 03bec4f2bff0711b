"""Closed-form laws of what a verifier emits: sums over all drafts and all outcomes of all tests, no sampling.

A world is a pair of tables over prefixes: target p(x | prefix) and draft q(x | prefix), V ids, `depth`
positions drafted and one more. Prefixes of length d are the numbers 0 … V^d − 1, the first token first.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.decoding.base import Draft


@dataclass(frozen=True)
class World:
    """Tables p[d], q[d] of shape (V^d, V), d = 0 … depth."""

    p: list[Tensor]
    q: list[Tensor]

    @classmethod
    def random(cls, size: int, depth: int, seed: int, sharpness: float = 2.0) -> World:
        g = torch.Generator().manual_seed(seed)
        p, q = (
            [
                torch.softmax(
                    sharpness * torch.randn(size**d, size, generator=g, dtype=torch.float64), dim=-1
                )
                for d in range(depth + 1)
            ]
            for _ in range(2)
        )
        return cls(p, q)

    @property
    def size(self) -> int:
        return self.p[0].shape[1]

    def joint(self) -> Tensor:
        """(V^(depth+1),) law of sequences under the target."""
        law = torch.ones(1, dtype=torch.float64)
        for table in self.p:
            law = (law[:, None] * table).flatten()
        return law

    def tail(self, taken: int) -> Tensor:
        """(V^taken, V^(depth+1−taken)): law of what follows `taken` tokens."""
        law = torch.ones(self.size**taken, 1, dtype=torch.float64)
        for table in self.p[taken:]:
            rows = table.view(self.size**taken, -1, self.size)
            law = (law[..., None] * rows).flatten(1)
        return law


def prefixes(world: World, tokens_BN: Tensor, parents: list[int]) -> tuple[Tensor, list[int]]:
    """Number of the prefix that ends at each entry, (B, N + 1), and the depth of each entry."""
    numbers, depths = [torch.zeros(len(tokens_BN), dtype=torch.long)], [0]
    for i, parent in enumerate(parents):
        numbers.append(numbers[parent] * world.size + tokens_BN[:, i])
        depths.append(depths[parent] + 1)
    return torch.stack(numbers, dim=1), depths


def all_drafts(world: World, parents: list[int], how: str) -> tuple[Draft, Tensor, Tensor]:
    """Every outcome of drafting a tree: drafts, their probabilities (B,), the target laws (B, N + 1, 1, V).

    `how`: "with" (siblings independent), "without" (without replacement) or "deterministic" (the likeliest
    ids).
    """
    n, size = len(parents), world.size
    if how == "deterministic":
        tokens = _likeliest(world, parents)
    else:
        tokens = torch.tensor(list(itertools.product(range(size), repeat=n)))
    numbers, depths = prefixes(world, tokens, parents)
    target = torch.stack([world.p[d][numbers[:, i]] for i, d in enumerate(depths)], dim=1)
    laws = torch.stack([world.q[depths[a]][numbers[:, a]] for a in parents], dim=1)
    chance = torch.ones(len(tokens), dtype=torch.float64)
    for i in range(n if how != "deterministic" else 0):
        law = laws[:, i].clone()
        elder = [j for j in range(i) if parents[j] == parents[i]] if how == "without" else []
        for j in elder:
            law.scatter_(1, tokens[:, j : j + 1], 0)
        law = law / law.sum(dim=1, keepdim=True)
        chance = chance * law.gather(1, tokens[:, i : i + 1]).squeeze(1)
    rows = len(tokens)
    draft = Draft(
        tokens[..., None],
        torch.tensor(parents).expand(rows, n),
        None if how == "deterministic" else laws[:, :, None],
        torch.ones(rows, n, dtype=torch.bool),
    )
    return draft, chance, target[:, :, None]


def _likeliest(world: World, parents: list[int]) -> Tensor:
    """(1, N): the j-th child of a node is the j-th likeliest id of the draft law."""
    tokens: list[int] = []
    for i, parent in enumerate(parents):
        numbers, depths = prefixes(world, torch.tensor([tokens or [0]])[:, :i], parents[:i])
        rank = sum(parents[j] == parent for j in range(i))
        law = world.q[depths[parent]][numbers[0, parent]]
        tokens.append(int(law.argsort(descending=True)[rank]))
    return torch.tensor([tokens])


def outcomes(verifier, draft: Draft, target: Tensor, chance: Tensor):
    """Every pattern of hits and misses: the decisions on draft rows × patterns, and the chance of each
    row."""
    b, n, k = draft.tokens.shape
    patterns = torch.tensor(list(itertools.product((0.0, 1.0), repeat=n * k)), dtype=torch.float64)
    m = len(patterns)
    uniforms = patterns.repeat(b, 1).view(b * m, n, k)
    each = [None if t is None else t.repeat_interleave(m, dim=0) for t in (draft.tokens, draft.parents)]
    laws = None if draft.laws is None else draft.laws.repeat_interleave(m, dim=0)
    repeated = Draft(*each, laws, draft.valid.repeat_interleave(m, dim=0))
    decision = verifier.decide(target.repeat_interleave(m, dim=0), repeated, uniforms)
    ratios = torch.zeros(b * m, n, k, dtype=torch.float64)
    ratios[:, : decision.ratios.shape[1]] = decision.ratios.clamp(0, 1)
    weight = torch.where(uniforms == 0, ratios, 1 - ratios).flatten(1).prod(dim=1)
    return decision, repeated, weight * chance.repeat_interleave(m)


def emitted_law(verifier, world: World, draft: Draft, target: Tensor, chance: Tensor) -> Tensor:
    """(V^(depth+1),) law of the sequences that verified drafts, and the target after them, make."""
    decision, draft, weight = outcomes(verifier, draft, target, chance)
    size, depth = world.size, len(world.p) - 1
    law = torch.zeros(size ** (depth + 1), dtype=torch.float64)
    for accepted in range(depth + 1):
        rows = decision.accepted == accepted
        number = torch.zeros(int(rows.sum()), dtype=torch.long)
        for d in range(accepted):
            index = decision.path[rows, d : d + 1] - 1
            number = number * size + draft.tokens[rows, :, 0].gather(1, index).squeeze(1)
        mass = torch.zeros(size**accepted, size, dtype=torch.float64)
        mass.index_add_(0, number, weight[rows, None] * decision.law[rows, 0])
        law += (mass.flatten()[:, None] * world.tail(accepted + 1)).flatten()
    return law


def emission_error(verifier, world: World, parents: list[int], how: str) -> float:
    """Largest difference between the law of emitted sequences and the target's."""
    draft, chance, target = all_drafts(world, parents, how)
    return float((emitted_law(verifier, world, draft, target, chance) - world.joint()).abs().max())


def mean_accepted(verifier, world: World, parents: list[int], how: str) -> float:
    """Expected number of accepted drafts."""
    draft, chance, target = all_drafts(world, parents, how)
    decision, _, weight = outcomes(verifier, draft, target, chance)
    return float((decision.accepted * weight).sum())
