"""Where pictures go."""

from __future__ import annotations

import os
import re
from pathlib import Path

from visgen.errors import InputError, shown

SLUG_BYTES = 80  # file systems end at 255 bytes, and a counter may be added
NAME_BYTES = 255
OTHER_FORMATS = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}


def slug(text: str) -> str:
    """A readable file name of a prompt: "a red circle" → "a-red-circle"."""
    words = shortened(re.sub(r"[\W_]+", "-", text[: 4 * SLUG_BYTES].lower()))
    return words.strip("-") or "image"


def shortened(name: str) -> str:
    """A file name cut to `SLUG_BYTES`, between two characters."""
    return name.encode(errors="surrogateescape")[:SLUG_BYTES].decode(errors="ignore")


def fresh(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, … that is not there: a chosen name never overwrites
    anything."""
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def is_picture(output: Path) -> bool:
    """Whether -o names one PNG; False for a folder.

    Raises:
        InputError: the name of another image format, or a place where nothing can be written.
    """
    suffix = "" if os.path.isdir(output) else output.suffix.lower()
    if suffix in OTHER_FORMATS:
        raise InputError(f"-o {output}: pictures are written as PNG; give a name in .png, or a folder")
    _check_place(output, suffix == ".png")
    return suffix == ".png"


def _check_place(output: Path, picture: bool) -> None:
    """Refuse what could not be written before anything is computed for it."""
    folder = output.parent if picture else output
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not os.path.isdir(there):
        raise InputError(f"-o {shown(str(output))}: {shown(str(there))} is no folder; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"-o {shown(str(output))}: nothing can be written in {shown(str(there))}")
    if long := [part for part in output.parts if len(os.fsencode(part)) > NAME_BYTES]:
        raise InputError(f"-o {shown(long[0])} is longer than the {NAME_BYTES} bytes of a file name")
    if picture and os.path.lexists(output) and not os.path.isfile(output):
        raise InputError(f"-o {shown(str(output))} is no regular file; choose another name")


def picture_paths(
    output: Path | None, name: str, rows: int, per_row: int = 1, grid: bool = False
) -> list[Path]:
    """One path per picture, row by row; a single one for a grid.

    Args:
        output: what -o said: a .png, a folder, or None for a fresh name in the current folder.
        name: text the fresh name is made of.
        rows: number of prompts, labels or images.
        per_row: pictures of each.
        grid: all of them go into one picture.

    Raises:
        InputError: a .png for several pictures, or another image format.
    """
    several = rows * per_row > 1 and not grid
    if output is None:
        output = fresh(Path(slug(name) + ("" if several else ".png")))
    elif is_picture(output) and several:
        raise InputError(
            f"-o {shown(str(output))} is one picture, but {rows * per_row} are made; "
            "give a folder, or add --grid"
        )
    if output.suffix.lower() == ".png" and not output.is_dir():
        return [output]
    if grid:
        return [output / "grid.png"]
    return [output / f"{row:06d}_{j}.png" for row in range(rows) for j in range(per_row)]
