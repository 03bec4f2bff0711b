"""Pictures with words in them: a strip of pictures with captions, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

LEGIBLE = 160  # pixels that the side of a picture in a strip has at least
COLUMNS = 12  # pictures in a row
GAP, LINE = 8, 20  # pixels between pictures, and of a line of words
INK = (32, 32, 32)


def font(size: int) -> Any:
    """Pillow's own typeface, `size` pixels high; a small bitmap where Pillow was built without FreeType."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def labelled_strip(pictures: Sequence[Image], captions: Sequence[Sequence[str]]) -> Image:
    """Pictures side by side on white, each above its lines of words; small ones enlarged by whole pixels.

    Args:
        pictures: of any sizes, drawn at one width.
        captions: lines of words under each.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    pictures = [_enlarged(picture) for picture in pictures]
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    columns = min(len(pictures), COLUMNS)
    below = LINE * max(map(len, captions)) + GAP
    rows = math.ceil(len(pictures) / columns)
    size = (columns * (width + GAP) + GAP, rows * (height + below + GAP) + GAP)
    sheet = Pillow.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        left = GAP + number % columns * (width + GAP)
        top = GAP + number // columns * (height + below + GAP)
        sheet.paste(picture, (left + (width - picture.width) // 2, top + height - picture.height))
        for row, line in enumerate(lines):
            middle = (left + width // 2, top + height + GAP // 2 + row * LINE)
            draw.text(middle, line, fill=INK, font=font(15 if row == 0 else 13), anchor="ma")
    return sheet


def _enlarged(picture: Image) -> Image:
    """By a whole factor, pixels staying sharp squares."""
    from PIL import Image as Pillow

    factor = max(1, math.ceil(LEGIBLE / max(picture.size)))
    size = picture.width * factor, picture.height * factor
    return picture.convert("RGB").resize(size, Pillow.Resampling.NEAREST)
