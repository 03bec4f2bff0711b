"""An image of any size as square tiles, and back."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def tile_grid(height: int, width: int, size: int) -> tuple[int, int]:
    """(rows, columns) of tiles that cover an image."""
    return math.ceil(height / size), math.ceil(width / size)


def cut_tiles(image: Tensor, size: int) -> Tensor:
    """(1, 3, H, W) → (rows · columns, 3, size, size), row by row; extended at the right and lower edge."""
    rows, columns = tile_grid(image.shape[-2], image.shape[-1], size)
    image = _extend(_extend(image, -2, rows * size), -1, columns * size)
    tiles = image.reshape(3, rows, size, columns, size).permute(1, 3, 0, 2, 4)
    return tiles.reshape(rows * columns, 3, size, size)


def lay_tiles(tiles: Tensor, grid: tuple[int, int]) -> Tensor:
    """(rows · columns, 3, size, size) → (1, 3, rows · size, columns · size)."""
    rows, columns = grid
    size = tiles.shape[-1]
    return (
        tiles.reshape(rows, columns, 3, size, size)
        .permute(2, 0, 3, 1, 4)
        .reshape(1, 3, rows * size, columns * size)
    )


def _extend(image: Tensor, dim: int, length: int) -> Tensor:
    """Mirror the image beyond its edge, or repeat the edge where it is too short to be mirrored."""
    missing = length - image.shape[dim]
    if missing == 0:
        return image
    padding = (0, missing, 0, 0) if dim == -1 else (0, 0, 0, missing)
    return F.pad(image, padding, mode="reflect" if missing < image.shape[dim] else "replicate")
