"""Sample grids: the same captions or originals as rows, the cells of a table as columns."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visgen.errors import InputError
from visgen.evaluation.studies.folder import Record
from visgen.evaluation.studies.samples import cut, png, side_by_side
from visgen.evaluation.studies.table import Table

TITLES = {
    "generate": "The same captions and seeds, drawn by each",
    "reconstruct": "The same pictures, kept by each",
}
ORIGINAL = "original"


@dataclass(frozen=True, eq=False)
class Column:
    """Images of a cell as PNGs; `record` is None for the originals."""

    label: str
    record: Record | None
    images: tuple[bytes, ...]


@dataclass(frozen=True, eq=False)
class SampleGrid:
    """Columns of one table's cells.

    Attributes:
        name: of its file.
        title: what it shows.
        subjects: of the rows; "" where there is nothing to say.
        columns: one per cell.
    """

    name: str
    title: str
    subjects: tuple[str, ...]
    columns: tuple[Column, ...]

    def to_png(self) -> bytes:
        """Side by side, without words."""
        strips = [_joined(column.images) for column in self.columns]
        return png(side_by_side(strips, len(self.subjects)))


def sample_grids(tables: Sequence[Table], folder: Path) -> list[SampleGrid]:
    """A grid for each table whose cells have samples and agree on what they show.

    Raises:
        InputError: a file that a record names is missing or broken.
    """
    found = (_grid(table, folder) for table in tables)
    return [grid for grid in found if grid is not None]


def _grid(table: Table, folder: Path) -> SampleGrid | None:
    records = [record for record in table.records if record.get("samples")]
    if not records:
        return None
    count = min(record["samples"]["count"] for record in records)
    columns = [_column(r["cell"]["label"], r, r["samples"]["file"], count, folder) for r in records]
    first = records[0]["samples"]
    if "originals" in first:
        columns.insert(0, _column(ORIGINAL, None, first["originals"], count, folder))
    subjects = next((r["samples"]["subjects"] for r in records if r["samples"].get("subjects")), [""] * count)
    name = f"samples-{table.kind}{table.suffix}"
    return SampleGrid(name, TITLES[table.kind], tuple(subjects[:count]), tuple(columns))


def _column(label: str, record: Record | None, file: str, count: int, folder: Path) -> Column:
    try:
        with Image.open(folder / file) as picture:
            images = cut(picture.convert("RGB"), count)
    except OSError as error:
        raise InputError(f"{folder / file} cannot be read ({error}); run the cell again") from error
    return Column(label, record, tuple(png(image) for image in images))


def _joined(images: Sequence[bytes]) -> Image.Image:
    pictures = [Image.open(io.BytesIO(one)) for one in images]
    side = pictures[0].height
    strip = Image.new("RGB", (side * len(pictures), side))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (i * side, 0))
    return strip
