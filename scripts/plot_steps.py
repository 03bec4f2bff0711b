"""FID and adherence against the number of flow steps, from records of `visgen evaluate`.

    for n in 4 8 16 32; do visgen evaluate scenes-xar --steps $n -o steps-$n.json; done
    python scripts/plot_steps.py steps-*.json docs/xar-steps.png      # needs matplotlib

Records of one model, solver and guidance scale make one line; others are drawn beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Line = list[tuple[int, Any]]
STEPS, APART = "num_inference_steps", ("solver", "guidance_scale", "guidance_schedule")


def main(
    files: Annotated[list[Path], typer.Argument(help="Records, then the PNG to write.")],
) -> None:
    """Draw a panel of FID and, where it was judged, one of adherence."""
    from visgen.errors import InputError

    *results, output = files
    if not results or output.suffix != ".png":
        raise InputError(f"{str(output)!r} must be a .png, after one record or more")
    plot(read_lines(results), output)


def read_lines(results: Sequence[Path]) -> dict[str, Line]:
    """Name of a line → its (steps, record), steps rising.

    Raises:
        InputError: records that cannot be compared, or of a model that takes no steps.
    """
    from visgen.evaluation.records import check_comparable, read_results

    records = [record for path in results for record in read_results(path)]
    for record in records[1:]:
        check_comparable(record, records[0])
    lines: dict[str, Line] = {}
    for record in records:
        lines.setdefault(_name(record), []).append((_steps(record), record))
    return {name: sorted(line, key=lambda point: point[0]) for name, line in lines.items()}


def _sampling(record: Any) -> dict[str, Any]:
    return record.get("config", {}).get("sampling") or {}


def _steps(record: Any) -> int:
    from visgen.errors import InputError

    if STEPS not in _sampling(record):
        raise InputError(
            f"{record['subject']['name']!r} was not sampled in steps; give records of xAR models"
        )
    return _sampling(record)[STEPS]


def _name(record: Any) -> str:
    told = [f"{name.split('_')[0]} {_sampling(record)[name]}" for name in APART if name in _sampling(record)]
    return ", ".join([Path(record["subject"]["name"]).name, *told])


def plot(lines: dict[str, Line], output: Path) -> None:
    """Write the PNG; intervals of FID are shaded, the distance of real from real images is dotted."""
    from matplotlib.figure import Figure

    judged = any("adherence" in record["metrics"] for line in lines.values() for _, record in line)
    figure = Figure(figsize=(4.5 * (1 + judged), 3.2), layout="constrained")
    panels = figure.subplots(1, 1 + judged, squeeze=False)[0]
    for name, line in lines.items():
        _fid(panels[0], name, line)
        if judged:
            _adherence(panels[1], line)
    panels[0].legend(fontsize=8)
    for panel in panels:
        panel.set(xlabel="flow steps per entity", xscale="log")
        ticks = sorted({steps for line in lines.values() for steps, _ in line})
        panel.set_xticks(ticks, labels=[str(n) for n in ticks], minor=False)
        panel.minorticks_off()
    low, high = panels[0].get_ylim()  # a logarithmic axis of less than a decade would show one number
    ticks = [n for n in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500) if low <= n <= high]
    panels[0].set_yticks(ticks, labels=[str(n) for n in ticks])
    figure.savefig(output, dpi=110)


def _fid(panel: Any, name: str, line: Line) -> None:
    steps = [n for n, _ in line]
    scores = [record["metrics"]["fid"] for _, record in line]
    (drawn,) = panel.plot(steps, [score["value"] for score in scores], "o-", ms=3, label=name)
    intervals = [score.get("interval") or [score["value"]] * 2 for score in scores]
    panel.fill_between(steps, *zip(*intervals, strict=True), alpha=0.2, color=drawn.get_color(), lw=0)
    floor = (scores[0].get("beside") or {}).get("real")
    if floor is not None:
        panel.axhline(floor, color="grey", ls=":", lw=1)
    panel.set(ylabel="FID", yscale="log")


def _adherence(panel: Any, line: Line) -> None:
    scored = [(n, record["metrics"]["adherence"]) for n, record in line if "adherence" in record["metrics"]]
    panel.plot([n for n, _ in scored], [100 * score["value"] for _, score in scored], "o-", ms=3)
    panel.set_ylabel("adherence, %")


if __name__ == "__main__":
    typer.run(main)
