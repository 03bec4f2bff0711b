"""Accuracy against the vision tokens that are kept, of `visgen evaluate --protocol scenes-vqa --prune … -o`.

visgen evaluate scenes-vlm --protocol scenes-vqa --prune divprune:0.1 --prune divprune:0.25 … -o scores.json
python scripts/plot_pruning.py scores.json docs/pruning.png       # needs matplotlib
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

TITLES = {"accuracy": "all questions", "accuracy_yes_no": "yes or no"}


def main(
    results: Annotated[Path, typer.Argument(help="What `visgen evaluate -o` wrote.")],
    output: Annotated[Path, typer.Argument(help="The PNG to write.")],
    kinds: Annotated[bool, typer.Option(help="A panel for each kind of question too.")] = False,
) -> None:
    """Draw a line per method, and the whole model as a dashed one."""
    from matplotlib.figure import Figure

    from visgen.evaluation.records import read_results

    records = read_results(results)
    metrics = [name for name in records[0]["metrics"] if kinds or name == "accuracy"]
    columns = min(len(metrics), 4)
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, metric in zip(panels, metrics, strict=False):
        _draw(panel, records, metric)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    panels[0].legend(fontsize=7)
    figure.savefig(output, dpi=110)


def _draw(panel: Any, records: list[dict[str, Any]], metric: str) -> None:
    lines: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for record in records:
        score, pruning = record["metrics"][metric], record["pruning"]
        value, (low, high) = 100 * score["value"], (100 * end for end in score["interval"])
        if pruning is None:
            panel.axhline(value, linestyle="--", color="black", linewidth=1, label="whole")
            continue
        kept = 100 * pruning["average_tokens"] / pruning["image_tokens"]
        lines[pruning["name"]].append((kept, value, max(0.0, value - low), max(0.0, high - value)))
    for name, points in sorted(lines.items()):
        x, y, below, above = zip(*sorted(points), strict=True)
        panel.errorbar(x, y, [below, above], marker="o", markersize=3, capsize=2, label=name)
    title = TITLES.get(metric, metric.removeprefix("accuracy_"))
    panel.set(
        title=title, xlabel="vision tokens kept, % (mean of the layers)", ylabel="accuracy, %", xscale="log"
    )


if __name__ == "__main__":
    typer.run(main)
