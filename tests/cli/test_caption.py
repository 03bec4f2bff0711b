"""`visgen caption`, with a tiny model and at a stub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

from tests.cli.conftest import StubPipeline
from tests.pipelines.seed_models import tiny_pipeline

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "in.png")
    Image.linear_gradient("L").resize((40, 20)).save(tmp_path / "wide.png")


@pytest.fixture
def captions(stub: StubPipeline, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the stub was asked for; it says how large a picture is."""
    asked: list[dict[str, Any]] = []

    def caption(images: list[Image.Image], **options: Any) -> list[str]:
        asked.append(options)
        return [f"{image.width} wide" for image in images]

    monkeypatch.setattr(stub, "caption", caption, raising=False)
    return asked


def test_one_picture_one_line(run: Run, stub: StubPipeline, captions: list) -> None:
    result = run("caption", "in.png")
    assert (result.exit_code, result.stdout) == (0, "64 wide\n")
    assert stub.loaded == ("scenes-seed", {"task": "caption"})
    assert captions == [{}]


def test_several_pictures_are_named(run: Run, captions: list) -> None:
    result = run("caption", "in.png", "wide.png", "--seed", "3", "--temperature", "0.7", "--top-p", "0.5")
    assert result.stdout.splitlines() == ["in.png: 64 wide", "wide.png: 40 wide"]
    assert captions == [{"seed": 3, "temperature": 0.7, "top_p": 0.5}]


def test_options_are_passed_on(run: Run, stub: StubPipeline, captions: list) -> None:
    more = ("--question", "what?", "--top-k", "none", "--max-tokens", "9", "--batch-size", "2", "--offline")
    assert run("caption", "in.png", "-m", "other", *more).exit_code == 0
    assert captions == [{"question": "what?", "top_k": None, "max_new_tokens": 9, "batch_size": 2}]
    assert stub.loaded == ("other", {"task": "caption", "local_files_only": True})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("caption",), "Missing argument"),
        (("caption", "gone.png"), "gone.png"),
        (("caption", "in.png", "--temperature", "0"), "temperature=0"),
        (("caption", "in.png", "--max-tokens", "0"), "--max-tokens"),
    ],
)
def test_bad_input_ends_with_2(run: Run, captions: list, arguments: tuple[str, ...], told: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert captions == []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seed") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


def test_a_real_model_captions_and_draws(run: Run, model: Path, tmp_path: Path) -> None:
    words = ("caption", "in.png", "wide.png", "-m", model, "--max-tokens", "5")
    result = run(*words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["in.png", "wide.png"]
    assert run(*words).stdout.splitlines() == lines
    assert run("generate", "a red circle", "-m", model, "--seed", "1", "-o", "out.png").exit_code == 0
    assert Image.open(tmp_path / "out.png").size == (64, 64)


def test_models_that_do_not_caption_are_told(run: Run) -> None:
    result = run("caption", "in.png", "-m", "scenes-ar")
    assert result.exit_code == 2
    assert "cannot do caption; it can do text-to-image" in result.stderr
    missing = run("caption", "in.png", "-m", "scenes-sed")
    assert missing.exit_code == 2
    assert len(missing.stderr.splitlines()) == 1
