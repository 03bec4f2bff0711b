"""Rotary position embeddings: over a grid (LlamaGen, arXiv 2406.06525) half of the pairs turn by the row,
half by the column; over a line (RoFormer, arXiv 2104.09864) all of them by the position."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

PrefixRotation = Literal["zero", "identity"]
Rotation = tuple[Tensor, Tensor]  # cos and sin, (L, D / 2) or (B, L, D / 2) float32


@lru_cache(maxsize=32)
def grid_rotation(
    grid: tuple[int, int], head_size: int, base: float, prefix: int, prefix_rotation: PrefixRotation
) -> Rotation:
    """Cos and sin (prefix + h·w, D / 2) for `prefix` condition positions and a raster grid.

    Args:
        grid: (h, w).
        head_size: D, a multiple of 4; pair j < D / 4 turns by row · base^(−4j / D), the others by column.
        prefix_rotation: "zero" = cos = sin = 0, which makes queries and keys of the condition vanish, as in
            the official code; "identity" = they are not turned.
    """
    h, w = grid
    rows, columns = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    places_L2 = torch.stack([rows.flatten(), columns.flatten()], dim=1)
    return place_rotation(places_L2, head_size, base, prefix, prefix_rotation)


def place_rotation(
    places_L2: Tensor, head_size: int, base: float, prefix: int, prefix_rotation: PrefixRotation
) -> Rotation:
    """Cos and sin (prefix + L, D / 2) of positions that stand at (row, column), which may be fractions;
    otherwise as `grid_rotation`."""
    frequencies = base ** (-torch.arange(0, head_size // 2, 2).float() / (head_size // 2))  # (D / 4,)
    angles = (places_L2[:, :, None] * frequencies).flatten(1)
    cos = torch.full((prefix, head_size // 2), 1.0 if prefix_rotation == "identity" else 0.0)
    return torch.cat([cos, angles.cos()]), torch.cat([torch.zeros_like(cos), angles.sin()])


@lru_cache(maxsize=32)
def line_rotation(
    length: int, head_size: int, base: float, prefix: int, prefix_rotation: PrefixRotation
) -> Rotation:
    """Cos and sin (prefix + length, D / 2) for `prefix` condition positions and a sequence.

    Args:
        length: positions of the sequence, 0 … length − 1.
        head_size: D, even; pair j turns by position · base^(−2j / D).
        prefix_rotation: as in `grid_rotation`.
    """
    frequencies = base ** (-torch.arange(0, head_size, 2).float() / head_size)  # (D / 2,)
    angles = torch.arange(length).float()[:, None] * frequencies
    cos = torch.full((prefix, head_size // 2), 1.0 if prefix_rotation == "identity" else 0.0)
    return torch.cat([cos, angles.cos()]), torch.cat([torch.zeros_like(cos), angles.sin()])


def rotate(x_BHLD: Tensor, rotation: Rotation) -> Tensor:
    """Turn adjacent pairs (2j, 2j + 1) of x, in float32; the result has x's dtype."""
    cos, sin = (table if table.ndim == 2 else table[:, None] for table in rotation)  # (…, L, D / 2)
    a, b = x_BHLD.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x_BHLD.dtype)
