"""Accuracy against the vision tokens that are kept, of `visgen evaluate --protocol scenes-vqa --prune … -o`.

visgen evaluate scenes-vlm --protocol scenes-vqa --prune all -o scores.json
python scripts/plot_pruning.py scores.json docs/pruning.png       # needs matplotlib
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

TITLES = {"accuracy": "all questions", "accuracy_yes_no": "yes or no"}
BASELINES = ("random", "uniform")  # look at nothing: dashed
MARKERS = "osD^v<>Pp*"
TICKS = (5, 11, 22, 33, 50, 100)
APART = 1.012  # lines of one retention stand beside each other, so that their bars can be read


class Point(NamedTuple):
    """Percent of the tokens kept, percent right, and the ends of its interval."""

    kept: float
    value: float
    low: float
    high: float


def main(
    results: Annotated[Path, typer.Argument(help="What `visgen evaluate -o` wrote.")],
    output: Annotated[Path, typer.Argument(help="The PNG to write.")],
    kinds: Annotated[bool, typer.Option(help="A panel for each kind of question too.")] = False,
) -> None:
    """Draw a line per method, bars of 95 % intervals, and a band of the whole model."""
    from matplotlib.figure import Figure

    from visgen.evaluation.records import read_results

    records = read_results(results)
    metrics = [name for name in records[0]["metrics"] if kinds or name == "accuracy"]
    columns = min(len(metrics), 4)
    rows = -(-len(metrics) // columns)
    size = (4 * columns + 1.6, 3.4 * rows) if kinds else (8.5, 5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, metric in zip(panels, metrics, strict=False):
        _draw(panel, records, metric)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(output, dpi=130)


def _draw(panel: Any, records: list[dict[str, Any]], metric: str) -> None:
    lines, whole = _points(records, metric)
    panel.axhspan(whole.low, whole.high, color="black", alpha=0.08, linewidth=0)
    panel.axhline(whole.value, linestyle=":", color="black", linewidth=1, label="whole model")
    for number, (name, points) in enumerate(sorted(lines.items())):
        ends = [*sorted(points), *([] if max(points).kept > 99 else [whole])]
        shift = APART ** (number - len(lines) / 2)
        _line(panel, name, [point._replace(kept=point.kept * shift) for point in ends], number)
    panel.set(title=TITLES.get(metric, metric.removeprefix("accuracy_")), xscale="log", ylabel="accuracy, %")
    panel.set_xlabel("vision tokens, % of all (mean of the decoder's layers)")
    panel.set_xticks(TICKS, [str(tick) for tick in TICKS])
    panel.minorticks_off()
    panel.grid(alpha=0.25)


def _line(panel: Any, name: str, points: list[Point], number: int) -> None:
    x, y, low, high = zip(*points, strict=True)
    below = [max(0.0, value - end) for value, end in zip(y, low, strict=True)]
    above = [max(0.0, end - value) for value, end in zip(y, high, strict=True)]
    panel.errorbar(
        x,
        y,
        [below, above],
        label=name,
        color=f"C{number % 10}",
        marker=MARKERS[number % len(MARKERS)],
        linestyle="--" if name in BASELINES else "-",
        markersize=4,
        linewidth=1.3,
        elinewidth=0.7,
        capsize=1.5,
    )


def _points(records: list[dict[str, Any]], metric: str) -> tuple[dict[str, list[Point]], Point]:
    """The points of each method, and the whole model's."""
    lines: dict[str, list[Point]] = defaultdict(list)
    whole = Point(100, 0, 0, 0)
    for record in records:
        score, pruning = record["metrics"][metric], record["pruning"]
        value, low, high = (100 * number for number in (score["value"], *score["interval"]))
        if pruning is None:
            whole = Point(100, value, low, high)
        else:
            kept = 100 * pruning["average_tokens"] / pruning["image_tokens"]
            lines[pruning["name"]].append(Point(kept, value, low, high))
    return lines, whole


if __name__ == "__main__":
    typer.run(main)
