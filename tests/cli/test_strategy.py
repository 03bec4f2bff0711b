"""`--strategy` of generate, edit and evaluate: checked before a model loads, passed on, told by pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

import visgen
from tests.cli.conftest import StubPipeline
from tests.evaluation.benchmark.conftest import SAMPLING, raster_model, raster_tokenizer
from tests.pipelines.conftest import make_generator, make_tokenizer
from visgen.data.images import read_png_metadata
from visgen.pipelines.class_to_image import ClassToImagePipeline

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A next-token and a next-scale model of five classes."""
    root = tmp_path_factory.mktemp("models")
    ClassToImagePipeline(raster_tokenizer(), raster_model(num_classes=5), SAMPLING).save_pretrained(
        root / "raster"
    )
    ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5), SAMPLING).save_pretrained(
        root / "var"
    )
    return root


def settings(path: Path) -> dict[str, object]:
    return json.loads(read_png_metadata(path)["settings"])


@pytest.mark.parametrize("verb", [("generate", "x"), ("edit", "in.png", "--box", "0,0,1,1", "--prompt", "x")])
def test_it_is_passed_on_as_it_was_written(run: Run, stub: StubPipeline, verb: tuple[str, ...]) -> None:
    Image.new("RGB", (16, 16)).save("in.png")
    assert run(*verb).exit_code == 0
    assert "strategy" not in stub.called[1]
    assert run(*verb, "--strategy", "sjd:16").exit_code == 0
    assert stub.called[1]["strategy"] == "sjd:16"


BAD = [
    ("sjdd", "did you mean sjd"),
    ("sequential:3", "sequential"),
    ("sjd:many", "many"),
    ("sjd:0", "window=0"),
]


@pytest.mark.parametrize(("strategy", "told"), BAD)
@pytest.mark.parametrize("verb", ["generate", "--prompts", "edit", "evaluate", "bench"])
def test_a_bad_one_is_refused_before_a_model_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: str, strategy: str, told: str
) -> None:
    monkeypatch.setattr(visgen, "load", None, raising=False)  # calling it would be an internal error
    Image.new("RGB", (16, 16)).save("in.png")
    Path("p.txt").write_text("x\n")
    words = {
        "generate": ("generate", "x", "--strategy", strategy),
        "--prompts": ("generate", "--prompts", "p.txt", "-o", "out", "--strategy", strategy),
        "edit": ("edit", "in.png", "--box", "0,0,1,1", "--prompt", "x", "--strategy", strategy),
        "evaluate": ("evaluate", "scenes-ar", "--strategy", strategy),
        "bench": ("bench", "generate", "-m", "scenes-ar", "--strategies", strategy),
    }
    result = run(*words[verb])
    assert result.exit_code == 2, result.output
    assert told in result.stderr and len(result.stderr.splitlines()) == 1


def test_pictures_say_how_they_were_decoded(run: Run, models: Path) -> None:
    words = ("generate", "-m", models / "raster", "--label", 2, "--seed", 1)
    assert run(*words, "-o", "a.png").exit_code == 0
    assert run(*words, "-o", "b.png", "--strategy", "sequential").exit_code == 0
    assert run(*words, "-o", "c.png", "--strategy", "sjd:4").exit_code == 0
    assert "strategy" not in settings(Path("a.png"))
    assert settings(Path("c.png"))["strategy"] == "sjd:4"
    assert Path("a.png").read_bytes() != Path("c.png").read_bytes()
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()


def test_a_file_of_prompts(run: Run, models: Path) -> None:
    Path("p.jsonl").write_text('{"label": 1}\n{"label": 2}\n')
    words = ("generate", "-m", models / "raster", "--prompts", "p.jsonl", "-o", "out", "--seed", 1)
    assert run(*words, "--strategy", "sjd:4").exit_code == 0
    assert settings(Path("out/000001_0.png"))["strategy"] == "sjd:4"
    assert json.loads(Path("out/batch.json").read_text())["strategy"] == "sjd:4"
    other = run(*words)  # the same folder under another strategy is another batch
    assert other.exit_code == 2 and "strategy is 'sjd:4' there" in other.stderr


@pytest.mark.parametrize("verb", ["generate", "evaluate", "edit"])
def test_a_next_scale_model_takes_none(run: Run, models: Path, verb: str) -> None:
    Image.new("RGB", (16, 16)).save("in.png")
    Path("pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (50 * i,) * 3).save(f"pictures/{i}.png")
    words = {
        "generate": ("generate", "--label", 1, "-m", models / "var"),
        "evaluate": ("evaluate", models / "var", "--reference", "pictures", "--metrics", "psnr"),
        "edit": ("edit", "in.png", "--box", "0,0,1,1", "-m", models / "var"),
    }
    result = run(*words[verb], "--strategy", "sjd")
    assert result.exit_code == 2, result.output
    assert "only next-token models do" in result.stderr


def test_edit_keeps_what_lies_outside(run: Run, models: Path) -> None:
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save("in.png")
    words = ("edit", "in.png", "--box", "0,0,1,0.5", "-m", models / "raster", "--seed", 1)
    result = run(*words, "-o", "out.png", "--strategy", "jacobi:4")
    assert result.exit_code == 0, result.output
    assert settings(Path("out.png"))["strategy"] == "jacobi:4"


def test_evaluate_stores_it(run: Run, models: Path) -> None:
    Path("pictures").mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (50 * i,) * 3).save(f"pictures/{i}.png")
    words = ("evaluate", models / "raster", "--reference", "pictures", "--metrics", "psnr", "-n", 2)
    result = run(*words, "--strategy", "sjd:4", "-o", "r.json")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("r.json").read_text())["results"][0]["config"]["strategy"] == "sjd:4"
    assert run("evaluate", "pictures", "--reference", "pictures", "--strategy", "sjd").exit_code == 2
