"""Trees of drafts: the published fixed ones by name, and what follows from a tree's parents.

Entries are numbered from the root, which is 0; a draft's parent has a smaller number. A fixed tree is given
by index paths: (0, 2, 1) is the second draw below the third draw below the first one below the root.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visgen.errors import UnknownNameError

Path = tuple[int, ...]

# One word per draft, one digit per level. EAGLE's and LANTERN's; a number in a name may count other things.
_PATHS = {
    "chain": "0 00 000 0000 00000",
    "mc_sim_7b_63": (
        "0 1 2 3 00 01 02 10 11 20 21 30 000 001 002 010 011 020 021 100 0000 0001 0002 00000 00001"
    ),
    "mc_sim_7b_63_balanced": (
        "0 1 2 00 01 02 10 11 12 20 21 000 001 002 010 011 100 101 110 111 0000 0001 0002 00000 00001"
    ),
    "reverse_balanced_25": (
        "0 1 2 00 01 10 20 000 001 002 010 011 100 0000 0001 0002 0010 0011 "
        "00000 00001 00002 00003 00010 00011 00012"
    ),
    "naive_extend_57": (
        "0 1 2 3 4 00 01 02 03 10 11 12 20 21 22 30 31 40 000 001 002 003 010 011 012 020 021 022 030 031 "
        "100 101 110 200 0000 0001 0002 0003 0010 0011 0012 0020 0021 0030 0100 0101 0110 0200 "
        "00000 00001 00002 00010 00011 00100 00101 00110 00200"
    ),
    "medusa_2_7b_63": (
        "0 1 2 3 4 5 6 7 8 9 00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 20 21 30 31 40 50 60 70 "
        "000 001 002 003 004 005 006 007 008 010 011 012 013 020 021 030 040 050 100 101 102 110 200 "
        "0000 0001 0002 0003 0010 0020 0100"
    ),
}
NAMED_TREES = tuple(_PATHS)


def static_paths(name: str) -> list[Path]:
    """Index paths of one of `NAMED_TREES`, breadth first.

    Raises:
        UnknownNameError: no tree of that name.
    """
    if name not in _PATHS:
        raise UnknownNameError(f"tree={name!r} is unknown; use one of {', '.join(NAMED_TREES)}")
    return [tuple(map(int, word)) for word in _PATHS[name].split()]


def parents_of(paths: Sequence[Sequence[int]]) -> list[int]:
    """Parents (N) of a tree's drafts as entry numbers, 0 = the root, from index paths, breadth first."""
    number = {(): 0} | {tuple(path): entry for entry, path in enumerate(paths, start=1)}
    return [number[tuple(path[:-1])] for path in paths]


def tree_structure(parents_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Depths (B, N) from 0, and bool (B, N, N): entry i sees entry j, an ancestor or itself.

    Args:
        parents_BN: index of each entry's parent among these entries, -1 = none of them; as in
            `Session.extend`.
    """
    b, n = parents_BN.shape
    depths = torch.zeros_like(parents_BN)
    seen = torch.eye(n, dtype=torch.bool, device=parents_BN.device).repeat(b, 1, 1)
    row = torch.arange(b, device=parents_BN.device)
    for entry in range(1, n):
        parent = parents_BN[:, entry]
        above = parent >= 0
        parent = parent.clamp_min(0)
        depths[:, entry] = torch.where(above, depths[row, parent] + 1, 0)
        seen[:, entry] |= seen[row, parent] & above[:, None]
    return depths, seen


def leaf_paths(parents_N: Sequence[int], *, lexicographic: bool = True) -> Tensor:
    """Entries of every path from the root to a leaf, (leaves, depth + 1) int64, padded with −1.

    Ordered by their entries, a path that goes on before one that has ended, or else by leaf.
    """
    paths = []
    for leaf in sorted(set(range(len(parents_N) + 1)) - set(parents_N)):
        path = [leaf]
        while path[0] > 0:
            path.insert(0, parents_N[path[0] - 1])
        paths.append(path)
    length = max(map(len, paths))
    padded = [path + [-1] * (length - len(path)) for path in paths]
    if lexicographic:
        padded.sort(key=lambda path: [entry if entry >= 0 else len(parents_N) + 1 for entry in path])
    return torch.tensor(padded)


def subtree(parents_BP: Tensor, chosen_BN: Tensor) -> Tensor:
    """Parents (B, N) of the chosen entries of larger trees, as entry numbers of the smaller ones.

    Args:
        parents_BP: (B, P) entry numbers, 0 = the root.
        chosen_BN: entry numbers, ascending per row; of each its parent is chosen too, or is the root.
    """
    above = parents_BP.gather(1, chosen_BN - 1)
    place = torch.searchsorted(chosen_BN.contiguous(), above) + 1
    return torch.where(above == 0, 0, place)
