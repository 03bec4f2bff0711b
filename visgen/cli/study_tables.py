"""Studies, and differences of two, as tables and lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from visgen.cli.scores import figures_table
from visgen.evaluation.numbers import number, signed

if TYPE_CHECKING:
    from rich.table import Table

    from visgen.evaluation.studies.diff import CellDiff, StudyDiff
    from visgen.evaluation.studies.running import Outcome

METHODS = {"paired": "paired", "intervals": "intervals", "identical": "same images", "none": "no interval"}


def study_tables(outcome: Outcome) -> Iterator[Table]:
    """A table for each group of comparable cells; the best in bold where its interval overlaps no other's."""
    from rich.markup import escape

    from visgen.evaluation.studies.table import cost, cost_text, score_text, tables
    from visgen.evaluation.studies.words import COSTS, title

    for table in tables(outcome):
        metrics, costs = table.metrics, table.costs
        arrows = ["↑" if table.higher_is_better(metric) else "↓" for metric in metrics]
        heads = [f"{title(metric)} {arrow}" for metric, arrow in zip(metrics, arrows, strict=True)]
        count = table.records[0]["count"]
        out = figures_table(
            f"{table.kind} · {count} images", "", *heads, *(COSTS[name][0] for name in costs), highlight=False
        )
        clear = {metric: table.clear_best(metric) for metric in metrics}
        for record in table.records:
            scores = []
            for metric in metrics:
                value, interval = score_text(metric, record["metrics"].get(metric))
                text = escape(f"{value} [{interval}]" if interval else value)
                scores.append(f"[bold]{text}[/bold]" if clear[metric] is record else text)
            asked = [cost_text(name, cost(record, name)) for name in costs]
            out.add_row(escape(record["cell"]["label"]), *scores, *asked)
        yield out


def diff_lines(diff: StudyDiff) -> Iterator[str]:
    """What differs beside the scores."""
    for names, folder in ((diff.only_a, diff.a), (diff.only_b, diff.b)):
        for name in names:
            yield f"only in {folder}: {name}"
    for cell in diff.cells:
        yield from (f"{cell.name}: {name}: {old} → {new}" for name, (old, new) in cell.changes.items())
        if cell.note:
            yield f"{cell.name}: {cell.note}"
    changed = sum(cell.significant for cell in diff.cells)
    yield f"{len(diff.cells)} cells in both, {changed} with a score that changed by more than chance (95 %)"


def diff_table(diff: StudyDiff) -> Table:
    """Scores before and after, cell by cell."""
    out = figures_table(
        f"{diff.a} → {diff.b}", "", "metric", "before", "after", "difference", "by", "", highlight=False
    )
    for cell in diff.cells:
        for metric, one in cell.metrics.items():
            out.add_row(*_row(cell, metric, one))
    return out


def _row(cell: CellDiff, metric: str, one: dict[str, Any]) -> list[str]:
    from rich.markup import escape

    text = signed(metric, one["value"])
    if one["interval"] and one["method"] != "identical":
        text += f" [{signed(metric, one['interval'][0])}, {signed(metric, one['interval'][1])}]"
    verdict = {None: "", True: "better", False: "worse"}[one["better"]]
    values = [number(metric, one["a"]), number(metric, one["b"])]
    return [escape(cell.name), metric, *values, escape(text), METHODS[one["method"]], verdict]
