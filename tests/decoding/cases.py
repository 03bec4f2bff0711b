"""Lossless strategies as the exactness suite runs them, and how their results are judged."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.decoding.toy import ToyLaw, ToySession, sequence_law
from visgen.decoding.base import DecodingStrategy, Resources
from visgen.decoding.jacobi import CoupledJacobi, SpeculativeJacobi
from visgen.decoding.recycling import TokenRecycling
from visgen.decoding.sequential import Sequential
from visgen.nn.noise import Noise

CHAINS: dict[str, DecodingStrategy] = {
    "sequential": Sequential(),
    **{f"sjd-{w}": SpeculativeJacobi(window=w) for w in (1, 3, 5)},
    "sjd-block-3": SpeculativeJacobi(window=3, verifier="block"),
    "sjd-block-5": SpeculativeJacobi(window=5, verifier="block"),
    **{f"sjd-{init}": SpeculativeJacobi(window=4, init=init) for init in ("random", "left", "above", "law")},
    "sjd-law-above": SpeculativeJacobi(window=4, init="law-above"),
    "sjd-interval": SpeculativeJacobi(window=4, interval=(1, 4)),
    **{f"jacobi-{w}": CoupledJacobi(window=w) for w in (1, 3, 5)},
    "jacobi-uniform": CoupledJacobi(window=4, init="uniform"),
    "jacobi-law-above": CoupledJacobi(window=4, init="law-above"),
    "jacobi-independent": CoupledJacobi(window=4, coupling="independent"),
    "jacobi-block": CoupledJacobi(window=4, coupling="independent", verifier="block"),
    "jacobi-shared-3": CoupledJacobi(window=3, coupling="shared"),
    "jacobi-shared-5": CoupledJacobi(window=5, coupling="shared", init="uniform"),
}
TREES: dict[str, DecodingStrategy] = {
    "tree-2": CoupledJacobi(window=8, branching=2, depth=2),
    "tree-3": CoupledJacobi(window=5, branching=3, depth=1, init="uniform"),
    "tree-independent": CoupledJacobi(window=7, branching=2, depth=1, coupling="independent"),
    "tree-shared": CoupledJacobi(window=8, branching=2, depth=2, coupling="shared"),
    "recycling-1": TokenRecycling(nodes=1, width=2),
    "recycling-3": TokenRecycling(nodes=3, width=2),
    "recycling-9": TokenRecycling(nodes=9, width=3),
    "recycling-right": TokenRecycling(nodes=5, width=3, above=False),
}
CASES = CHAINS | TREES


def draw(
    strategy: DecodingStrategy, table: Tensor, law: ToyLaw, noise: Noise, runs: int, guidance: float = 1.0
) -> tuple[Tensor, ToySession]:
    """Ids (runs, L · K) of one batch; the toy's positions count as a grid of two rows."""
    session = ToySession(runs, table, guidance)
    columns = -(-session.length // 2)
    ids, _ = strategy(session, law, noise, Resources(grid=(2, columns)))
    return ids.flatten(1), session


def chi_square(ids: Tensor, table: Tensor, law: ToyLaw, guidance: float = 1.0) -> float:
    """z = (χ² − df) / √(2 df) of sequences (N, L · K) against the enumerated law; infinite where one occurs
    that cannot."""
    expected = sequence_law(table, law, guidance)
    size, length = table.shape[-1], ids.shape[1]
    p = torch.tensor(list(expected.values()), dtype=torch.float64)  # in the order of the sequences as numbers
    number = (ids * size ** torch.arange(length - 1, -1, -1)).sum(1)
    counts = torch.bincount(number, minlength=size**length).double()
    possible = p > 1e-12
    if counts[~possible].any():
        return float("inf")
    mean = p[possible] * len(ids)
    df = int(possible.sum()) - 1
    return float((((counts[possible] - mean) ** 2 / mean).sum() - df) / (2 * df) ** 0.5)
