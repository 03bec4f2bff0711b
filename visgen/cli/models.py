"""`visgen models`: what ships and what is official."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from visgen.cli.console import say

if TYPE_CHECKING:
    from rich.table import Table

    from visgen.pipelines.listing import ModelRow

SCHEMA = 1  # of --json
FILE_WIDTH = 200  # columns when the table goes into a file or a pipe


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead.")] = False,
) -> None:
    """List shipped and official models with licence, size, recipe and parity."""
    import visgen

    rows = visgen.models()
    if as_json:
        say(
            json.dumps(
                {"schema": SCHEMA, "models": [asdict(row) for row in rows]}, ensure_ascii=False, indent=2
            )
        )
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table(rows))


def table(rows: list[ModelRow]) -> Table:
    """One line per model, a rule between shipped and official ones."""
    from rich import box
    from rich.table import Table

    out = Table(
        "model", "task", "size", "licence", "recipe", "parity", "notes", box=box.SIMPLE, highlight=True
    )
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        last = following is not None and following.kind != row.kind
        task = row.tasks[0] if row.tasks else ""
        cells = (row.name, task, size(row.size_bytes), row.licence, row.recipe, row.parity, row.notes)
        out.add_row(*cells, end_section=last)
    return out


def size(count: int) -> str:
    """Bytes for people, in powers of ten as hubs count: 7_400_000 → "7.4 MB"."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
