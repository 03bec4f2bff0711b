"""`visgen ask`, `visgen prune` and `visgen evaluate --protocol scenes-vqa`, with a tiny model."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from tests.pipelines.answer_models import TOKENS, pictures, tiny_answer_pipeline
from visgen.data.images import read_png_metadata

Run = Callable[..., Result]
QUESTION = "what colour is the circle?"


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    for name, image in zip(("a.png", "b.png"), pictures(2, 64), strict=True):
        image.save(tmp_path / name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answer") / "tiny"
    tiny_answer_pipeline().save_pretrained(folder)
    return folder


def test_one_picture_one_line_and_several_are_named(run: Run, model: Path) -> None:
    result = run("ask", "a.png", QUESTION, "-m", model, "--max-tokens", "3")
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1
    two = run("ask", "a.png", "b.png", QUESTION, "-m", model, "--max-tokens", "3").stdout.splitlines()
    assert [line.split(": ")[0] for line in two] == ["a.png", "b.png"]
    assert two[0] == f"a.png: {result.stdout.strip()}"


def test_json(run: Run, model: Path) -> None:
    words = ("ask", "a.png", "b.png", QUESTION, "-m", model, "--json", "--max-tokens", "2")
    found = json.loads(run(*words, "--prune", "uniform:4").stdout)
    assert found["schema"] == 1
    assert found["question"] == QUESTION
    assert [one["image"] for one in found["answers"]] == ["a.png", "b.png"]
    assert [len(row[0]) for row in found["pruning"][0]["kept"]] == [4, 4]
    assert json.loads(run(*words, "--num-tokens", "4").stdout)["pruning"] == []


def test_the_model_that_ships_is_asked_where_none_is_named(run: Run) -> None:
    result = run("ask", "a.png", "how many objects are there?", "--max-tokens", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() in ("one", "two", "three", "four")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("ask", "a.png"), "Missing argument"),
        (("ask", "gone.png", QUESTION), "gone.png"),
        (("ask", "a.png", QUESTION, "--prune", "unifrom:4"), "uniform"),
        (("ask", "a.png", QUESTION, "--prune", "uniform:0"), "keep=0"),
        (("ask", "a.png", QUESTION, "-m", "scenes-ar"), "cannot do answer"),
        (("ask", "a.png", QUESTION, "-m", "scenes-vlx"), "scenes-vlx"),
        (("prune", "a.png"), "--prune is missing"),
        (("prune", "a.png", "--prune", "uniform:4", "-o", "out.jpg"), "must end in .png"),
        (("evaluate", "x", "--prune", "uniform:4"), "add --protocol scenes-vqa"),
        (("evaluate", "x", "--protocol", "scenes-vqq"), "scenes-vqa"),
        (("evaluate", "x", "--protocol", "scenes-vqa", "--metrics", "fid"), "--metrics"),
        (("evaluate", "x", "--protocol", "scenes-vqa", "--reference", "photos"), "SPLIT"),
        (("evaluate", "x", "--protocol", "scenes-vqa-smal"), "scenes-vqa-small"),
    ],
)
def test_bad_input_ends_with_2(run: Run, words: tuple[str, ...], told: str) -> None:
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_words_that_the_model_does_not_know(run: Run, model: Path) -> None:
    result = run("ask", "a.png", "who painted it?", "-m", model)
    assert result.exit_code == 2
    assert "does not know: who, painted, it" in result.stderr


def test_a_picture_of_what_stays(run: Run, model: Path, tmp_path: Path) -> None:
    result = run("prune", "a.png", "--prune", "uniform:0.25", "-m", model, "-o", "kept.png")
    assert result.exit_code == 0, result.output
    assert f"kept.png: 4 of {TOKENS} tokens reached the last layer" in result.stdout
    image = Image.open(tmp_path / "kept.png")
    assert image.size == (480, 480)
    pale = sum(min(image.getpixel((60 + 120 * x, 60 + 120 * y))) > 180 for x in range(4) for y in range(4))
    assert 12 <= pale <= TOKENS
    told = read_png_metadata(tmp_path / "kept.png")
    assert told["visgen_prune"] == "uniform:0.25"


def test_tokens_that_are_dropped_on_the_way() -> None:
    from visgen.pipelines.token_map import map_tokens

    found = map_tokens(tiny_answer_pipeline(), pictures(1)[0], QUESTION, prune="fastv:4:layer=1")
    assert found.grid == (4, 4)
    assert sorted(found.stay) == [0.5] * 12 + [1.0] * 4
    assert found.picture.size == (32, 32)


def test_scores_of_pruners(run: Run, model: Path, tmp_path: Path) -> None:
    words = ("evaluate", model, "--protocol", "scenes-vqa", "-n", "14", "--prune", "uniform:0.25")
    result = run(*words, "--prune", "fastv:0.5:layer=1", "-o", "scores.json")
    assert result.exit_code == 0, result.output
    assert "14 questions" in result.stdout
    assert "decoder FLOPs" in result.stdout and "accuracy − whole" in result.stdout
    assert not (tmp_path / "scores.json.part").exists()
    whole, uniform, fastv = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert whole["subject"]["name"] == str(model)
    assert uniform["subject"]["name"] == f"{model} + uniform:0.25"
    assert whole["pruning"] is None
    assert (uniform["pruning"]["image_tokens"], uniform["pruning"]["kept_tokens"]) == (16, 4)
    assert fastv["pruning"]["entered_tokens"] == 16
    assert fastv["pruning"]["kept_tokens"] == 8 < fastv["pruning"]["average_tokens"] < 16
    assert 0 < uniform["pruning"]["flops_ratio"] < fastv["pruning"]["flops_ratio"] < 1
    low, high = whole["metrics"]["accuracy"]["interval"]
    assert low <= whole["metrics"]["accuracy"]["value"] <= high
    assert whole["metrics"]["accuracy_colour"]["count"] == 2
    beside = run("evaluate", "scores.json")
    assert beside.exit_code == 0, beside.output
    other = run("evaluate", model, "scores.json", "--protocol", "scenes-vqa-small", "-n", "14")
    assert (other.exit_code, "cannot be compared" in other.stderr) == (2, True)
    _plot(tmp_path)


def _plot(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts/plot_pruning.py"))
    script["main"](folder / "scores.json", folder / "plot.png", kinds=True)
    assert Image.open(folder / "plot.png").width > 1000
