"""`scripts/plot_steps.py`: records become lines of rising steps, one per model and way of sampling."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from visgen.errors import InputError
from visgen.evaluation.records import KIND, SCHEMA

SCRIPT = Path(__file__).parents[2] / "scripts" / "plot_steps.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plot_steps", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(steps: int | None, fid: float, count: int = 100, **sampling: Any) -> dict[str, Any]:
    score = {"value": fid, "interval": [fid - 0.1, fid + 0.1], "beside": {"real": 0.2}}
    taken = None if steps is None else {"num_inference_steps": steps, **sampling}
    return {
        "subject": {"name": "scenes-xar"},
        "metrics": {"fid": score, "adherence": {"value": 0.5}},
        "protocol": {"name": "scenes", "version": 1},
        "reference": None,
        "count": count,
        "config": {"sampling": taken},
    }


def write(folder: Path, *records: dict[str, Any]) -> list[Path]:
    paths = [folder / f"{k}.json" for k in range(len(records))]
    for path, one in zip(paths, records, strict=True):
        path.write_text(json.dumps({"schema": SCHEMA, "kind": KIND, "results": [one]}))
    return paths


def test_a_line_per_way_of_sampling(script: ModuleType, tmp_path: Path) -> None:
    made = [record(16, 2.0, solver="sde"), record(4, 5.0, solver="sde"), record(4, 3.0, solver="ode")]
    lines = script.read_lines(write(tmp_path, *made))
    assert {name: [steps for steps, _ in line] for name, line in lines.items()} == {
        "scenes-xar, solver sde": [4, 16],
        "scenes-xar, solver ode": [4],
    }


def test_what_cannot_be_drawn_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'scenes-xar' was not sampled in steps"):
        script.read_lines(write(tmp_path, record(None, 1.0)))
    with pytest.raises(InputError, match="image counts differ"):
        script.read_lines(write(tmp_path, record(4, 1.0), record(8, 1.0, count=50)))


def test_the_picture(script: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = script.read_lines(write(tmp_path, record(4, 5.0), record(16, 2.0)))
    script.plot(lines, tmp_path / "steps.png")
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
