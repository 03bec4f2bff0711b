"""A fixed tree of drafts, from index paths, in the form that drafting level by level needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from visgen.decoding.trees import Path, parents_of
from visgen.errors import InputError


@dataclass(frozen=True)
class TreeLevel:
    """Drafts of one depth, as they are drawn.

    Attributes:
        rows, ranks: per draft, below which of the `above` inner nodes, and the how-manieth draw there.
        above, above_ranks: the same of those inner nodes themselves, among the inner nodes a level higher;
            empty below the root.
    """

    rows: list[int]
    ranks: list[int]
    above: list[int]
    above_ranks: list[int]


@dataclass(frozen=True)
class StaticTree:
    """A fixed tree of drafts, numbered breadth first.

    Attributes:
        parents: (N) entry numbers, 0 = the root.
        levels: by depth, 1 first.
        width: draws below an inner node that the tree needs.
    """

    parents: list[int]
    levels: list[TreeLevel]
    width: int

    @classmethod
    def from_paths(cls, paths: Sequence[Sequence[int]]) -> StaticTree:
        """From index paths such as (0,), (1,), (0, 0), in any order.

        Raises:
            InputError: no path, or one without those before it: its beginning, and its elder siblings,
                without which draws without replacement would not have the law that their test assumes.
        """
        nodes = sorted({tuple(path) for path in paths} - {()}, key=lambda path: (len(path), path))
        if not nodes:
            raise InputError("tree=() has no path; name at least one, such as ((0,),)")
        known = {(), *nodes}
        for path in nodes:
            elder = (*path[:-1], path[-1] - 1) if path[-1] else ()
            if path[:-1] not in known or elder not in known:
                raise InputError(f"tree: path {path} needs its beginning and its elder siblings in the tree")
        inner = [sorted({path[:-1] for path in nodes if len(path) == d + 1}) for d in range(len(nodes[-1]))]
        levels = [_level(nodes, inner, depth) for depth in range(len(inner))]
        return cls(parents_of(nodes), levels, 1 + max(path[-1] for path in nodes))


def _level(nodes: list[Path], inner: list[list[Path]], depth: int) -> TreeLevel:
    here = [path for path in nodes if len(path) == depth + 1]
    above = [path for path in inner[depth] if path]
    return TreeLevel(
        rows=[inner[depth].index(path[:-1]) for path in here],
        ranks=[path[-1] for path in here],
        above=[inner[depth - 1].index(path[:-1]) for path in above],
        above_ranks=[path[-1] for path in above],
    )
