"""`visgen bench generate`: a table, and one JSON document as the last line of stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import Result

from tests.evaluation.benchmark.conftest import raster_model, raster_tokenizer
from tests.pipelines.conftest import make_generator, make_tokenizer
from tests.pipelines.entity_models import xar_class_pipe
from visgen.cli.bench_tables import acceptance
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


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "raster"
    sampling = {"guidance_scale": 2.0, "top_k": 8}
    ClassToImagePipeline(raster_tokenizer(), raster_model(num_classes=5), sampling).save_pretrained(folder)
    return folder


def test_the_options() -> None:
    command = get_command(app).commands["bench"].commands["generate"]
    names = {name for p in command.params for name in p.opts}
    assert names >= {"--model", "-m", "--random-weights", "--label", "--prompt", "--dtype", "--batch-size"}
    assert names >= {"--repeats", "--compile", "--device", "--offline", "--tokens", "--steps"}
    assert names >= {"--strategies", "--num-images", "-n", "--quality-images", "--positions"}


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
        (["--strategies", "sjd,"], "--strategies"),
        (["--strategies", "sjd", "--compile"], "--compile"),
        (["--positions"], "--strategies"),
        (["--quality-images", "8"], "--strategies"),
        (["--strategies", "all"], "scenes-ar"),
        (["--steps", "5"], "xAR"),
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


def test_a_model_of_latents(run: Callable[..., Result], tmp_path: Path) -> None:
    xar_class_pipe().save_pretrained(tmp_path / "xar")
    words = ("-m", tmp_path / "xar", "--label", 2, "--steps", 3, "--dtype", "fp32")
    result = run("bench", "generate", *words, *QUICK)
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.splitlines()
    rows = {row["name"]: row for row in json.loads(last)["rows"] if row["dtype"] == "float32"}
    assert {"image", "latents of an image, 3 steps", "baseline: straightforward loop"} <= set(rows)
    assert any("the plain loop, 15 calls" in line for line in lines)
    refused = run("bench", "generate", *words, "--compile")
    assert refused.exit_code == 2
    assert "--compile" in refused.stderr


def test_a_next_token_model(run: Callable[..., Result], raster: Path) -> None:
    result = run("bench", "generate", "-m", raster, "--label", 2, "--tokens", 5, *QUICK)
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.splitlines()
    rows = {row["name"]: row for row in json.loads(last)["rows"] if row["dtype"] == "float32"}
    assert {"image", "image in a batch of 2", "5 tokens, no guidance", "5 tokens, guidance 2"} <= set(rows)
    assert rows["5 tokens, guidance 2"]["same_tokens"] == 5
    assert any("tokens/s" in line for line in lines) and any("the plain loop" in line for line in lines)


def test_strategies(run: Callable[..., Result], raster: Path) -> None:
    words = ("--strategies", "sjd:4, jacobi", "-n", 2, "--positions", "--dtype", "fp32")
    result = run("bench", "generate", "-m", raster, *words)
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.splitlines()
    found = json.loads(last)
    assert found["strategies"] == ["sjd:4", "jacobi"] and found["num_images"] == 2
    assert [row["name"] for row in found["rows"]] == ["sequential", "sjd:4", "jacobi"]
    for row in found["rows"]:
        wanted = {
            "passes",
            "tokens_per_pass",
            "seconds",
            "lossless",
            "adherence",
            "fid",
            "tested",
            "accepted",
        }
        assert wanted <= set(row) and row["adherence"] is None
    grid = lines.index(next(line for line in lines if line.startswith("sjd:4: "))) + 1
    assert [len(line) for line in lines[grid : grid + 4]] == [16] * 4  # a cell of four characters each


def test_acceptance_by_position() -> None:
    row = {"name": "x", "tested": [0, 4, 2, 1, 8, 1], "accepted": [0, 1, 2, 0, 4, 1]}
    head, *lines = acceptance(row, (2, 3))
    assert head == "x: 50% of 16 drafts accepted; % by position:"
    assert lines == ["   ·  25 100", "   0  50 100"]
    assert len(list(acceptance(row, None))) == 2
    assert list(acceptance({"name": "sequential", "tested": [], "accepted": []}, (2, 3))) == []
