"""`visgen compare`: exit codes, what is said and written. Reports are tested in tests/evaluation/studies."""

# ruff: noqa: F811  (fixtures of another folder are imported by name)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.evaluation.conftest import models, pictures, toy  # noqa: F401

Run = Callable[..., Result]
pytestmark = pytest.mark.filterwarnings("ignore:FID of")


def done(result: Result, code: int = 0) -> Result:
    assert result.exit_code == code, result.output
    return result


def refused(result: Result, words: str) -> None:
    done(result, 2)
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert words in result.stderr and "Traceback" not in result.stderr


@pytest.fixture
def study(models: Path, pictures: Path, toy: object, tmp_path: Path) -> Path:
    """A study of one generator and one tokenizer."""
    path = tmp_path / "study.yaml"
    path.write_text(
        f"""# tiny
title: Tiny
output: out
reference: {pictures}
protocol: toy
count: 6
batch_size: 6
samples: 2
metrics: {{generate: [fid], reconstruct: [psnr, tokens]}}
generate: [{{model: {models / "text"}, name: var}}]
reconstruct: [{{model: {models / "tokenizer"}, name: vq}}]
"""
    )
    return path


def test_a_study_its_report_and_the_diff(run: Run, study: Path, tmp_path: Path) -> None:
    first = done(run("compare", study))
    assert first.stdout.splitlines()[-1] == "out/report.html" and "FID ↓" in first.stdout
    assert "[1/2] generate var" in first.stderr and "[2/2] reconstruct vq" in first.stderr
    assert (tmp_path / "out/study.yaml").read_bytes() == study.read_bytes()
    assert f"visgen compare {study}</pre>" in (tmp_path / "out/report.html").read_text()

    again = done(run("compare", study))
    assert "[1/2]" not in again.stderr and again.stdout == first.stdout

    other = done(run("compare", study, "seed=5", "-o", "other"))
    assert "[1/2] generate var" in other.stderr
    assert "seed: 5" in (tmp_path / "other/study.yaml").read_text()

    table = done(run("compare", "--diff", "out", "other")).stdout
    assert "generate-var: asked.seed: 0 → 5" in table and "2 cells in both" in table and "psnr" in table
    found = json.loads(done(run("compare", "--diff", "out", "other", "--json")).stdout)
    assert found["kind"] == "visgen-study-diff" and [c["name"] for c in found["cells"]] == [
        "generate-var",
        "reconstruct-vq",
    ]
    assert found["cells"][1]["metrics"]["psnr"]["method"] == "intervals"  # other seeds


def test_a_failed_cell_is_exit_code_1_and_all_else_is_there(run: Run, study: Path, tmp_path: Path) -> None:
    study.write_text(study.read_text().replace("name: var}", "name: var}, {model: nothing-of-the-kind}"))
    result = done(run("compare", study), code=1)
    assert "generate nothing-of-the-kind: failed: " in result.stderr
    assert "1 cell failed; the same command tries again" in result.stderr.splitlines()[-1]
    assert "nothing-of-the-kind" in (tmp_path / "out/report.html").read_text()
    assert len(list((tmp_path / "out/cells").iterdir())) == 3
    kept = done(run("compare", study, "--no-run"), code=1)
    assert "[1/3]" not in kept.stderr and kept.stdout.splitlines()[-1] == "out/report.html"


def test_bad_input_is_one_line(run: Run, study: Path, tmp_path: Path) -> None:
    refused(run("compare", "nothing.yaml"), "study 'nothing.yaml' does not exist")
    refused(run("compare", study, "cuont=3"), "unknown key 'cuont'")
    refused(run("compare", study, "count"), "is not key=value")
    refused(run("compare", study, "--no-run"), "--no-run: folder 'out' is not there")
    refused(run("compare", study, "--json"), "--json is for --diff")
    refused(run("compare", "--diff", "out"), "--diff compares two folders, not 1")
    refused(run("compare", "--diff", "a", "b", "-o", "c"), "leave -o and --no-run out")
    refused(run("compare", "--diff", "a", "b"), "folder 'a' does not exist")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    refused(run("compare", study, "-o", "mine"), "holds notes.txt but no study.yaml")
    refused(run("compare", study, "-o", "study.yaml"), "study.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "study.yaml"]


def test_without_matplotlib_nothing_is_computed(
    run: Run, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    refused(run("compare", study), "this needs matplotlib: pip install 'visgen[compare]'")
    assert not (tmp_path / "out").exists()
