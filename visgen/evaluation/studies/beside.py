"""Cells of one model beside its first one: what a strategy or an option changes, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visgen.evaluation.studies.diff import diff_records
from visgen.evaluation.studies.folder import Record
from visgen.evaluation.studies.table import Table


@dataclass(frozen=True)
class Beside:
    """Differences to a model's first cell.

    Attributes:
        first: its record.
        metrics: those of which differences have intervals.
        others: (record, metric → difference as `CellDiff.metrics` has it) of its other cells.
    """

    first: Record
    metrics: tuple[str, ...]
    others: tuple[tuple[Record, Mapping[str, Any]], ...]


def beside_first(table: Table, folder: Path) -> Iterator[Beside]:
    """Of generators with several cells; reconstructions differ in what they may keep, which a plot shows."""
    if table.kind != "generate":
        return
    for records in _by_model(table.records):
        first, *others = records
        found = [
            (one, diff_records(one["cell"]["name"], first, one, folder, folder).metrics) for one in others
        ]
        metrics = tuple(m for m in table.metrics if any(d[m]["interval"] for _, d in found if m in d))
        if metrics:
            yield Beside(first, metrics, tuple(found))


def _by_model(records: tuple[Record, ...]) -> list[list[Record]]:
    """Records of each model and seed that has several, in the order of the table."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["cell"]["model"], record["cell"]["seed"]), []).append(record)
    return [group for group in groups.values() if len(group) > 1]
