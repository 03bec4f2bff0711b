"""The same few images of every cell, in strips."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor


def strip(images: Sequence[Tensor]) -> bytes:
    """uint8 images (3, s, s) from left to right, as a PNG."""
    row = np.concatenate([image.permute(1, 2, 0).numpy() for image in images], axis=1)
    return png(Image.fromarray(row))


def cut(picture: Image.Image, count: int) -> list[Image.Image]:
    """The `count` squares of a strip."""
    side = picture.height
    return [picture.crop((i * side, 0, (i + 1) * side, side)) for i in range(count)]


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def side_by_side(strips: Sequence[Image.Image], count: int, gap: int = 2) -> Image.Image:
    """Strips as columns, their images as rows, on white."""
    side = max(one.height for one in strips)
    width, height = len(strips) * (side + gap) - gap, count * (side + gap) - gap
    sheet = Image.new("RGB", (width, height), "white")
    for column, one in enumerate(strips):
        for row, image in enumerate(cut(one, count)):
            sheet.paste(image.resize((side, side)), (column * (side + gap), row * (side + gap)))
    return sheet
