"""`visgen bench generate`: a table, and one JSON document as the last line of stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import Result

from tests.pipelines.conftest import make_generator, make_tokenizer
from visgen.cli.main import app
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.reconstruct import ReconstructPipeline

QUICK = ("--repeats", 1, "--batch-size", "1,2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "toy"
    sampling = {"guidance_scale": 2.0, "top_k": 8}
    ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5), sampling).save_pretrained(folder)
    return folder


def test_the_options() -> None:
    command = get_command(app).commands["bench"].commands["generate"]
    names = {name for p in command.params for name in p.opts}
    assert names >= {"--model", "-m", "--random-weights", "--label", "--prompt", "--dtype", "--batch-size"}
    assert names >= {"--repeats", "--compile", "--device", "--offline"}


def test_the_help_lists_what_can_be_measured(run: Callable[..., Result]) -> None:
    assert "generate" in run("bench", "--help").stdout
    assert "Usage: visgen bench generate" in run("bench", "generate", "-h").stdout


def test_the_last_line_is_a_json_document(run: Callable[..., Result], model: Path) -> None:
    result = run("bench", "generate", "-m", model, "--label", 2, *QUICK)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found) >= {"schema", "bench", "model", "device", "dtype", "threads", "versions", "rows"}
    assert (found["bench"], found["dtype"], found["weights"]) == (
        "generate",
        ["float32", "bfloat16"],
        "loaded",
    )
    names = {row["name"] for row in found["rows"]}
    assert {"first image", "image", "image in a batch of 2", "baseline: published loop"} <= names
    assert all({"name", "dtype"} <= set(row) for row in found["rows"])


def test_the_table_stands_before_it(run: Callable[..., Result], model: Path) -> None:
    lines = run("bench", "generate", "-m", model, "--dtype", "fp32", *QUICK).stdout.splitlines()
    assert any("baseline: published loop" in line and "float32" in line for line in lines[:-1])
    assert not any("bfloat16" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dtype", "float33"], "float32"),
        (["--dtype", "auto"], "--dtype"),
        (["--batch-size", "0"], "--batch-size"),
        (["--batch-size", "1;2"], "--batch-size"),
        (["-m", "var-d17", "--random-weights"], "var-d16"),
        (["-m", "var-tokenizer", "--random-weights"], "var-d16"),
        (["--device", "abacus"], "abacus"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(run: Callable[..., Result], words: list[str], told: str) -> None:
    result = run("bench", "generate", *words)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert told in result.stderr


def test_a_model_that_does_not_draw_is_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    ReconstructPipeline(make_tokenizer()).save_pretrained(tmp_path / "tokenizer")
    result = run("bench", "generate", "-m", tmp_path / "tokenizer", *QUICK)
    assert result.exit_code == 2
    assert "VAR" in result.stderr
