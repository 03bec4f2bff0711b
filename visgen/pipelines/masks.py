"""Which part of an image is kept: a box or a mask, on the token grid and on the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from visgen.data.images import resize_center_crop
from visgen.errors import InputError, shown
from visgen.tokenizers.tokens import Grid, Layout, Scales

Box = tuple[float, float, float, float]
MaskInput = Image.Image | np.ndarray | Tensor | Sequence[Any]


@dataclass(frozen=True, eq=False)
class Region:
    """What stays of one image or of several.

    Attributes:
        keep: bool (1 or N, h, w) on the finest token grid, True = the source's token stays.
        keep_pixels: bool (1 or N, 1, S, S), True = a pixel that the user did not mark.
    """

    keep: Tensor
    keep_pixels: Tensor

    def rows(self, index: Sequence[int]) -> Region:
        """The regions of some images; a single region serves them all."""
        if len(self.keep) == 1:
            return self
        return Region(self.keep[list(index)], self.keep_pixels[list(index)])


def finest_grid(layout: Layout) -> tuple[int, int]:
    """(h, w) of the finest grid of a layout; raises `InputError` for tokens without a place in the image."""
    if isinstance(layout, Scales):
        return layout.sizes[-1]
    if isinstance(layout, Grid):
        return layout.h, layout.w
    raise InputError(
        f"tokens in the layout {layout} have no place in the image, so a part of it cannot be kept"
    )


def box_region(box: Box, grid: tuple[int, int], pixels: int, invert: bool = False) -> Region:
    """Region of a box in fractions; inside is made anew, or kept with `invert`.

    Rows and columns are round(fraction · cells), with Python's rounding of halves to even, as in VAR's demo.

    Raises:
        InputError: not 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, or a box without a token, or nothing to make.
    """
    x0, y0, x1, y1 = check_box(box)
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[round(y0 * grid[0]) : round(y1 * grid[0]), round(x0 * grid[1]) : round(x1 * grid[1])] = True
    inside_pixels = torch.zeros(1, pixels, pixels, dtype=torch.bool)
    inside_pixels[:, round(y0 * pixels) : round(y1 * pixels), round(x0 * pixels) : round(x1 * pixels)] = True
    return _region(inside[None], inside_pixels[None], invert, f"box={tuple(box)}")


def check_box(box: Any) -> Box:
    """Four fractions as floats, left < right and top < bottom; `InputError` for anything else."""
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError):
        raise InputError(f"box={shown(box)} must be four numbers (x0, y0, x1, y1)") from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise InputError(f"box={tuple(box)} must hold fractions with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
    return x0, y0, x1, y1


def mask_region(
    masks: Sequence[Any],
    sizes: Sequence[tuple[int, int]],
    grid: tuple[int, int],
    pixels: int,
    invert: bool = False,
) -> Region:
    """Regions of masks (white = made anew) that lie over whole images.

    A mask follows its image: scaled to the image's size, then resized and cropped like it. A token is made
    anew when half of its area or more is white.

    Args:
        masks: one for all images, or one per image; Pillow, arrays or tensors of any size.
        sizes: (width, height) of the images.
        grid: (h, w) of the finest token grid.
        pixels: side of the model's square.
        invert: white is kept instead.
    """
    if len(masks) not in (1, len(sizes)):
        raise InputError(
            f"mask is a list of {len(masks)} for {len(sizes)} images; give one, or one per image"
        )
    pairs = zip(list(masks) * (len(sizes) // len(masks)), sizes, strict=True)
    white = torch.stack(
        [_follow(as_grey(mask), size, pixels) for mask, size in pairs]
    )  # (N, 1, S, S) in [0, 1]
    cells = F.adaptive_avg_pool2d(white, grid)[:, 0] >= 0.5
    return _region(cells, white >= 0.5, invert, "mask")


def _follow(mask: Image.Image, size: tuple[int, int], pixels: int) -> Tensor:
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resize_center_crop(mask, pixels)))[None].float() / 255


def as_grey(mask: Any) -> Image.Image:
    """Any mask as an 8-bit grey image.

    Pillow images may have any mode; arrays and tensors are (H, W), (1, H, W) or (H, W, channels). Floats are
    in [0, 1]; integers in 0 … 255 (0 … 65535 beyond that), or 0 and 1.
    """
    if isinstance(mask, Image.Image):
        if not mask.mode.startswith(("I", "F")):
            return mask.convert("L")
        mask = np.asarray(mask)
        mask = (
            mask / np.float32(255) if mask.dtype.kind == "f" and mask.max() > 1 else mask
        )  # Pillow's "F" has either
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
    if not isinstance(array, np.ndarray):
        raise InputError(f"mask of type {type(mask).__name__} must be a Pillow image, an array or a tensor")
    if array.ndim == 3:
        array = array[0] if array.shape[0] == 1 else array[..., :3].mean(axis=-1).astype(array.dtype)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"mask of shape {array.shape} must be (H, W), (1, H, W) or (H, W, channels)")
    return Image.fromarray((_unit(array) * 255).round().astype(np.uint8))


def _unit(array: np.ndarray) -> np.ndarray:
    top = float(array.max())
    if array.dtype.kind in "bf":
        full = 1.0
    else:
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    if not (float(array.min()) >= 0 and top <= full):
        told = f"mask holds values from {array.min()} to {array.max()}"
        raise InputError(f"{told}; floats must be in [0, 1], integers not negative")
    return array.astype(np.float64) / full


def _region(inside: Tensor, inside_pixels: Tensor, invert: bool, what: str) -> Region:
    """Region of what is marked, (N, h, w) and (N, 1, S, S); `InputError` where there is nothing to do."""
    h, w = inside.shape[-2:]
    if not inside.flatten(1).any(1).all():
        raise InputError(
            f"{what} covers no token: tokens are a grid of {h}×{w}, so mark at least one cell, "
            f"{1 / w:.3g} of the width by {1 / h:.3g} of the height"
        )
    if invert and inside.flatten(1).all(1).any():
        raise InputError(
            f"{what} with invert=True keeps the whole image; leave one of its {h}×{w} tokens out at least"
        )
    return Region(inside, inside_pixels) if invert else Region(~inside, ~inside_pixels)
