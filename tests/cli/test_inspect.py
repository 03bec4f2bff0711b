"""`visgen inspect`: a chart, and a table of what it shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from tests.pipelines.conftest import random_picture
from tests.pipelines.tiny_tokenizers import tiny_pipe
from visgen.cli.chart import COLOURS, HEIGHT, WIDTH, Panel, draw_chart, nice_ticks

Run = Callable[..., Result]


def inked(image: Image.Image, colour: tuple[int, int, int]) -> int:
    """Pixels of just this colour, those of the legend included."""
    return int((np.asarray(image) == colour).all(-1).sum())


def test_the_shipped_ones(run: Run, tmp_path: Path) -> None:
    random_picture(40, 30).save(tmp_path / "in.png")
    result = run("inspect", "in.png", "-t", "scenes-var", "-t", "scenes-vq")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-1] == "in-inspection.png"
    rows = {line.split()[0]: line.split() for line in lines if " dB" in line}
    assert {name: row[1] for name, row in rows.items()} == {"scenes-var": "130", "scenes-vq": "64"}
    chart = Image.open(tmp_path / "in-inspection.png")
    assert chart.width == 2 * WIDTH and chart.height > HEIGHT
    assert all(inked(chart, colour) > 50 for colour in COLOURS[:2]) and inked(chart, COLOURS[2]) == 0


def test_curves_of_flexible_ones(run: Run, tmp_path: Path) -> None:
    random_picture().save(tmp_path / "in.png")
    names = {"flextok": "FlexTokTokenizer", "karl": "KARLTokenizer"}
    for name, kind in names.items():
        tiny_pipe(kind).save_pretrained(tmp_path / name)
    words = ("-t", "flextok", "-t", "karl", "--decode-steps", 1, "--seed", 3, "-o", "x.png")
    result = run("inspect", "in.png", *words)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if " dB" in line]
    assert sum("num_tokens=" in line for line in lines) == 4
    assert sum("max_error=" in line for line in lines) == 5
    assert (tmp_path / "x.png").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["missing.png"],
        ["in.png", "-t", "nothing-such"],
        ["in.png", "-o", "x.jpg"],
        ["in.png", "-t", "scenes-vq", "--seed", "1"],
        ["in.png", "--decode-steps", "0"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(run: Run, tmp_path: Path, words: list[str]) -> None:
    random_picture().save(tmp_path / "in.png")
    result = run("inspect", *words)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.011, 0.11, [0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12]),
        (33.3, 35.0, [33, 33.5, 34, 34.5, 35]),
        (5.0, 5.0, [5, 6]),
        (0.0, 0.0, [0, 1]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_a_chart_of_points_that_are_hard_to_place() -> None:
    """No tokens at all, an equal image, a single point, and more tokenizers than colours."""
    series = {f"model-{n}": [(n, float(n))] for n in range(8)} | {"equal": [(4, float("inf"))], "none": []}
    chart = draw_chart("a title", "tokens", [Panel("dB", series)])
    assert chart.width == WIDTH and all(inked(chart, colour) > 20 for colour in COLOURS)
    assert draw_chart("a title", "tokens", [Panel("dB", {"equal": [(4, float("inf"))]})]).width == WIDTH
