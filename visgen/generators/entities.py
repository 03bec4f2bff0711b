"""What xAR predicts one after another (arXiv 2502.20388, section 3): entities of a grid of latents.

An entity is one position ("patch"), a square of neighbours ("cell"), a group with a stride ("subsample"), a
whole coarser image ("scale"), or the image itself ("image"). A generator sees only what `EntityLayout` says
of the sequence: which entity a position belongs to and where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.errors import InputError, shown
from visgen.schema import read

Size = tuple[int, int]


@dataclass(frozen=True)
class EntityOptions:
    """Entities in a configuration.

    Args:
        kind: see the module.
        size: side k of cells, or stride of subsamples.
        scales: longer sides of the coarser images, growing, the last one that of the grid.
    """

    kind: Literal["patch", "cell", "subsample", "scale", "image"]
    size: int | None = None
    scales: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        wanted = {"cell": "size", "subsample": "size", "scale": "scales"}.get(self.kind)
        for name in ("size", "scales"):
            if (getattr(self, name) is not None) != (name == wanted):
                works = f"needs {wanted}" if name == wanted else f"has no {name}"
                raise InputError(f"entities.{name}={getattr(self, name)!r}: kind {self.kind!r} {works}")
        if self.size is not None and self.size < 1:
            raise InputError(f"entities.size={self.size} must be 1 or more")


@dataclass(frozen=True)
class EntityLayout:
    """The entities of a grid, in the order of generation.

    Args:
        grid: (h, w) of the latents.
        options: which entities.

    Raises:
        InputError: sizes that do not fit the grid.
    """

    grid: Size
    options: EntityOptions

    @classmethod
    def from_config(cls, config: Mapping[str, Any], grid: Size) -> EntityLayout:
        """Read {"kind": …, "size": k} or {"kind": "scale", "scales": (…)}, see `EntityOptions`.

        Raises:
            InputError: unknown or missing options, or sizes that do not fit the grid.
        """
        return cls(grid, read(EntityOptions, config, "entities"))

    def __post_init__(self) -> None:
        (h, w), size, scales = self.grid, self._size, self.options.scales
        if h < 1 or w < 1:
            raise InputError(f"grid={self.grid!r} must have sides of 1 or more")
        if h % size or w % size:
            raise InputError(f"entities.size={size} must divide both sides of the grid {self.grid}")
        if scales is None:
            return
        growing = all(a < b for a, b in pairwise(scales))
        if not scales or not growing or scales[0] < 1 or scales[-1] != max(h, w):
            raise InputError(
                f"entities.scales={shown(scales)} must grow from 1 or more to {max(h, w)}, the longer side "
                f"of the grid {self.grid}"
            )

    @property
    def _size(self) -> int:
        return self.options.size or 1

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Entity → (h, w) of the raster that its positions are of: the grid, or a coarser one."""
        h, w = self.grid
        if self.options.scales is None:
            return (self.grid,) * len(self.groups)
        longer = max(h, w)
        return tuple(
            (max(1, round(h * s / longer)), max(1, round(w * s / longer))) for s in self.options.scales
        )

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Entity → raster indices of its positions."""
        (h, w), k = self.grid, self._size
        if self.options.scales is not None:
            return tuple(tuple(range(rows * columns)) for rows, columns in self.sizes)
        rows, columns = _cut(h, k, self.options.kind), _cut(w, k, self.options.kind)
        return tuple(tuple(i * w + j for i in some for j in others) for some in rows for others in columns)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions of each entity."""
        return tuple(len(group) for group in self.groups)

    @property
    def length(self) -> int:
        """Positions of the sequence."""
        return sum(h * w for h, w in ((self.grid,) if self.options.scales is None else self.sizes))

    def __len__(self) -> int:
        return len(self.groups)

    def slices(self) -> list[slice]:
        """Where each entity stands in the sequence."""
        starts = [0, *accumulate(self.lengths)]
        return [slice(start, end) for start, end in pairwise(starts)]

    @property
    def coarse(self) -> bool:
        """Whether entities are coarser images, of which the last one is the image."""
        return self.options.scales is not None

    def entity_ids(self) -> Tensor:
        """Position of the sequence → its entity, int64 (L,)."""
        return torch.tensor([e for e, length in enumerate(self.lengths) for _ in range(length)])

    def places(self) -> Tensor:
        """(row, column) of each position on the grid, float32 (L, 2); those of coarser images are centres."""
        return torch.tensor(
            [
                ((i // w + 0.5) * self.grid[0] / h - 0.5, (i % w + 0.5) * self.grid[1] / w - 0.5)
                for (h, w), group in zip(self.sizes, self.groups, strict=True)
                for i in group
            ]
        )

    def attention_mask(self) -> Tensor:
        """Block-causal, bool (L, L): a position sees its entity and those before."""
        ids = self.entity_ids()
        return ids[:, None] >= ids[None, :]

    def order(self, latents_BLC: Tensor) -> Tensor:
        """Latents of the grid in raster order (B, h·w, C) → the sequence (B, L, C)."""
        if not self.coarse:
            return latents_BLC[:, self._index(latents_BLC.device)]
        images = latents_BLC.transpose(1, 2).unflatten(2, self.grid)
        parts = [F.adaptive_avg_pool2d(images, size).flatten(2) for size in self.sizes]
        return torch.cat(parts, dim=2).transpose(1, 2)

    def restore(self, sequence_BLC: Tensor) -> Tensor:
        """The inverse of `order`: the image (B, h·w, C); of coarser images the last one."""
        if self.coarse:
            return sequence_BLC[:, -self.lengths[-1] :]
        return sequence_BLC[:, self._index(sequence_BLC.device).argsort()]

    def so_far(self, parts: Sequence[Tensor]) -> Tensor:
        """The image (B, C, h, w) when only the first entities, (B, n, C) each, are known: the others are 0;
        of coarser images the finest, enlarged."""
        known = torch.cat(list(parts), dim=1)
        if self.coarse:
            image = parts[-1].transpose(1, 2).unflatten(2, self.sizes[len(parts) - 1])
            return F.interpolate(image, size=self.grid, mode="nearest-exact")
        whole = F.pad(known, (0, 0, 0, self.length - known.shape[1]))
        return self.restore(whole).transpose(1, 2).unflatten(2, self.grid)

    def _index(self, device: torch.device) -> Tensor:
        return torch.tensor([i for group in self.groups for i in group], device=device)


def _cut(length: int, size: int, kind: str) -> list[range]:
    """One side of the grid by entities: runs of `size` neighbours, each `size`-th, or all."""
    if kind == "image":
        return [range(length)]
    if kind == "subsample":
        return [range(first, length, size) for first in range(size)]
    return [range(first, first + size) for first in range(0, length, size)]
