"""The shape of a Jacobi window: a chain of drafts with alternatives at its first levels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visgen.errors import InputError


@dataclass(frozen=True, eq=False)
class WindowShape:
    """A tree of entries; entry 0 is the root, the *chain* is its first children all the way down.

    Attributes:
        parents: (N,) int64, entry number of each draft's parent.
        depths: (N,) int64, 1 = child of the root.
        ranks: (N,) int64, 0 = first among its siblings.
        descend: (N + 1, C + 1) int64: for an entry and a depth not above its own, the entry that goes on from
            there: its first descendant of that depth, or, where it has none, the chain's entry.
        ancestors: (N, N) bool, draft i is draft j or below it.
        branching, levels: most siblings anywhere, and down to which depth there are several.
    """

    parents: Tensor
    depths: Tensor
    ranks: Tensor
    descend: Tensor
    ancestors: Tensor
    branching: int
    levels: int

    @property
    def drafts(self) -> int:
        """N."""
        return len(self.parents)

    @property
    def length(self) -> int:
        """C, drafts of the chain."""
        return self.descend.shape[1] - 1

    @property
    def is_chain(self) -> bool:
        """Whether there are no alternatives."""
        return self.drafts == self.length

    @classmethod
    def build(cls, entries: int, branching: int = 1, depth: int = 0) -> WindowShape:
        """A chain, and beside each of its first `depth` drafts `branching` − 1 alternatives; `entries` in
        all.

        Alternatives are leaves: children of theirs were drawn for another parent, and the same entries give
            more
        at the chain's end.

        Raises:
            InputError: root and alternatives are more than the entries.
        """
        alternatives = depth * (branching - 1)
        least = 1 + depth + alternatives
        if alternatives and 1 < entries < least:
            raise InputError(
                f"window={entries} cannot hold branching={branching} to depth={depth}: that is {least} "
                "entries with the root; use a larger window, or branching=1"
            )
        length = entries - 1 - alternatives if entries > 1 else 0
        ranks = [branching if level < depth else 1 for level in range(length)]
        return cls.of_paths(
            [(0,) * level + (rank,) for level in range(length) for rank in range(ranks[level])]
        )

    @classmethod
    def of_paths(cls, paths: list[tuple[int, ...]]) -> WindowShape:
        """A tree of nodes given by their ranks from the root down; parents and elder siblings come first."""
        number = {path: entry for entry, path in enumerate([(), *paths])}
        return cls._of([(number[path[:-1]], path[-1]) for path in paths])

    @classmethod
    def _of(cls, nodes: list[tuple[int, int]]) -> WindowShape:
        depth, first = [0], [-1] * (len(nodes) + 1)
        above = [set[int]()]
        for entry, (parent, rank) in enumerate(nodes, start=1):
            depth.append(depth[parent] + 1)
            above.append(above[parent] | {entry})
            if rank == 0:
                first[parent] = entry
        chain = [0]
        while first[chain[-1]] > 0:
            chain.append(first[chain[-1]])
        descend = [_descent(entry, depth[entry], first, chain) for entry in range(len(depth))]
        ancestors = [[j in above[i] for j in range(1, len(depth))] for i in range(1, len(depth))]
        return cls(
            torch.tensor([parent for parent, _ in nodes], dtype=torch.long),
            torch.tensor(depth[1:], dtype=torch.long),
            torch.tensor([rank for _, rank in nodes], dtype=torch.long),
            torch.tensor(descend),
            torch.tensor(ancestors, dtype=torch.bool).reshape(len(nodes), len(nodes)),
            branching=1 + max((rank for _, rank in nodes), default=0),
            levels=max((depth[i + 1] for i, (_, rank) in enumerate(nodes) if rank), default=0),
        )

    def to(self, device: torch.device) -> WindowShape:
        """The same on another device."""
        names = ("parents", "depths", "ranks", "descend", "ancestors")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def _descent(entry: int, depth: int, first: list[int], chain: list[int]) -> list[int]:
    """The way down from an entry, one entry per depth 0 … C; above the entry's own depth the chain's."""
    row = chain[:]
    while entry > 0 and depth < len(chain):
        row[depth] = entry
        entry, depth = first[entry], depth + 1
    return row
