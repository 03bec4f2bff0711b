"""Which patches of a picture stayed, drawn over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from visgen.data.images import to_rgb
from visgen.errors import InputError

SIDE = 480  # pixels at least, of the longer side of what is drawn
PALE = 0.78  # share of white in what did not stay
OUTLINE = (230, 0, 130)


def token_overlay(
    picture: Image.Image, grid: tuple[int, int], stay: Sequence[float], side: int = SIDE
) -> Image.Image:
    """The picture with patches that did not stay grey and pale, and a line around those that did.

    Args:
        picture: what was read; enlarged by a whole number if it is small.
        grid: rows and columns of patches, which cover the picture.
        stay: for each patch, row by row: 1 = it stayed, 0 = it did not, between = for a part of the way.
        side: pixels at least of the longer side.

    Raises:
        InputError: another number of patches, values outside [0, 1], or a grid finer than the picture.
    """
    rows, columns = grid
    shares = np.asarray(stay, np.float32)
    if min(grid) < 1 or shares.shape != (rows * columns,):
        raise InputError(f"stay has {shares.size} values for a grid of {rows} × {columns} patches")
    if not ((shares >= 0) & (shares <= 1)).all():
        raise InputError("stay must hold shares from 0 to 1")
    image = _enlarged(to_rgb(picture), side)
    if image.height < rows or image.width < columns:
        raise InputError(f"a picture of {image.width}×{image.height} has no {rows} × {columns} patches")
    pixels = np.asarray(image, np.float32)
    share = shares.reshape(grid)[_patch_of(image.height, rows)[:, None], _patch_of(image.width, columns)]
    pale = pixels.mean(2, keepdims=True) * (1 - PALE) + 255 * PALE
    drawn = pixels * share[..., None] + pale * (1 - share[..., None])
    drawn[_edges(share, max(1, max(image.size) // 320))] = OUTLINE
    return Image.fromarray(np.rint(drawn).astype(np.uint8))


def _patch_of(length: int, patches: int) -> np.ndarray:
    """Which patch each pixel of a side belongs to, int64 (length,)."""
    return np.arange(length) * patches // length


def _enlarged(image: Image.Image, side: int) -> Image.Image:
    factor = -(-side // max(image.size))
    if factor <= 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _edges(share: np.ndarray, width: int) -> np.ndarray:
    """Bool (H, W): pixels nearer than `width` to where the share changes."""
    edges = np.zeros(share.shape, bool)
    behind, before, whole = slice(width, None), slice(None, -width), slice(None)
    for one, other in (((behind, whole), (before, whole)), ((whole, behind), (whole, before))):
        changed = share[one] != share[other]
        edges[one] |= changed
        edges[other] |= changed
    return edges
