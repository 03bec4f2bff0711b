"""The curves of a shipped model's training: loss of each run, and adherence where it was scored on the way.

python scripts/plot_training.py scenes-var docs/training.png       # needs matplotlib
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

ASSETS = Path(__file__).parents[1] / "visgen/assets"


def main(
    name: Annotated[str, typer.Argument(help="Name of a shipped model.")],
    output: Annotated[Path, typer.Argument(help="The PNG to write.")],
) -> None:
    """Draw one panel per run, over minutes of training."""
    from matplotlib.figure import Figure

    runs = json.loads((ASSETS / name / "training.json").read_text(encoding="utf-8"))
    figure = Figure(figsize=(4 * len(runs), 3.2), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, run in zip(panels, runs, strict=True):
        _draw(panel, run)
    figure.savefig(output, dpi=110)


def _draw(panel: Any, run: dict[str, Any]) -> None:
    """Loss on the left axis, adherence on the right one."""
    minutes = run["seconds"] / 60 / run["steps"]
    curve = run["curve"]
    panel.plot([p["step"] * minutes for p in curve], [p["loss"] for p in curve], color="tab:blue")
    panel.set(title=Path(run["recipe"]["output"]).name, xlabel="minutes", ylabel="training loss")
    panel.set_yscale("log")
    scored = [line for line in run.get("evaluations", []) if "eval_adherence" in line]
    if scored:
        right = panel.twinx()
        shares = [100 * line["eval_adherence"] for line in scored]
        right.plot([line["step"] * minutes for line in scored], shares, "o-", color="tab:orange", ms=3)
        right.set_ylabel("adherence, %", color="tab:orange")


if __name__ == "__main__":
    typer.run(main)
