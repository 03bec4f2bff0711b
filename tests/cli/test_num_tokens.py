"""`--num-tokens`, `--decode-steps`, `--decode-guidance`: checked before a model loads, passed on, told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import visgen
from tests.cli.conftest import StubPipeline
from tests.pipelines.conftest import make_generator, make_tokenizer, random_picture
from tests.pipelines.sequences import OWN, class_sequences, text_sequences
from visgen.data.images import read_png_metadata
from visgen.pipelines.class_to_image import ClassToImagePipeline

Run = Callable[..., Result]
FLOW = ("--decode-steps", "2", "--decode-guidance", "1.5")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of sequences, of words and of five classes, and a next-scale model."""
    root = tmp_path_factory.mktemp("models")
    text_sequences().save_pretrained(root / "words")
    class_sequences().save_pretrained(root / "classes")
    ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5)).save_pretrained(root / "var")
    return root


def settings(path: str | Path) -> dict[str, object]:
    return json.loads(read_png_metadata(Path(path))["settings"])


def test_they_are_passed_on_as_they_were_written(run: Run, stub: StubPipeline) -> None:
    assert run("generate", "x").exit_code == 0
    assert not {"num_tokens", "decoding"} & stub.called[1].keys()
    assert run("generate", "x", "--num-tokens", "3", *FLOW).exit_code == 0
    assert stub.called[1]["num_tokens"] == 3
    assert stub.called[1]["decoding"] == {"num_inference_steps": 2, "guidance_scale": 1.5}
    assert run("generate", "x", "--decode-steps", "2").exit_code == 0
    assert stub.called[1]["decoding"] == {"num_inference_steps": 2}


BAD = [
    (("--num-tokens", "0"), "'--num-tokens'"),
    (("--decode-steps", "0"), "'--decode-steps'"),
    (("--decode-guidance", "-1"), "guidance_scale=-1.0"),
]


@pytest.mark.parametrize(("option", "told"), BAD)
@pytest.mark.parametrize("verb", [("generate", "x"), ("evaluate", "scenes-var")])
def test_bad_ones_are_refused_before_a_model_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...], option: tuple[str, ...], told: str
) -> None:
    monkeypatch.setattr(visgen, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    result = run(*verb, *option)
    assert result.exit_code == 2
    assert told in result.output


def test_pictures_say_what_they_are_of(run: Run, models: Path) -> None:
    words = ("generate", "a red circle", "-m", str(models / "words"), "--seed", "1")
    assert run(*words, "--num-tokens", "3", *FLOW, "-o", "a.png").exit_code == 0
    told = settings("a.png")
    assert told["num_tokens"] == 3
    assert told["decoding"]["num_inference_steps"] == 2
    assert run(*words, "-o", "b.png").exit_code == 0
    assert not {"num_tokens", "decoding"} & settings("b.png").keys()
    assert run("generate", "--label", "2", "-m", str(models / "classes"), "--num-tokens", "3").exit_code == 0


def test_models_without_them_say_so(run: Run, models: Path) -> None:
    words = ("generate", "--label", "1", "-m", str(models / "var"))
    for option, told in ((("--num-tokens", "3"), "num_tokens=3"), (("--decode-steps", "3"), "decoding=")):
        result = run(*words, *option)
        assert result.exit_code == 2
        assert told in result.output
    result = run("generate", "--label", "1", "-m", str(models / "classes"), "--num-tokens", "9")
    assert result.exit_code == 2
    assert "num_tokens=9 must be an integer from 1 to 8" in result.output


def test_a_folder_of_prompts_goes_on_only_as_it_began(run: Run, models: Path) -> None:
    Path("p.txt").write_text("a red circle\na blue square\n", encoding="utf-8")
    words = ("generate", "--prompts", "p.txt", "-o", "out", "-m", str(models / "words"), "--seed", "1")
    assert run(*words, "--num-tokens", "3", "--decode-steps", "2").exit_code == 0
    record = json.loads(Path("out/batch.json").read_text(encoding="utf-8"))
    assert record["num_tokens"] == 3
    assert record["decoding"]["num_inference_steps"] == 2
    assert record["decoding"]["guidance_scale"] == OWN["guidance_scale"]
    assert run(*words, "--num-tokens", "3", "--decode-steps", "2").exit_code == 0
    result = run(*words, "--num-tokens", "4", "--decode-steps", "2")
    assert result.exit_code == 2
    assert "num_tokens is 3 there, 4 here" in result.output


def test_evaluation_writes_down_what_was_asked_for(run: Run, models: Path) -> None:
    Path("real").mkdir()
    for index in range(2):
        random_picture(seed=index).save(f"real/{index}.png")
    words = ("evaluate", str(models / "words"), "--reference", "real", "-n", "2", "--metrics", "psnr")
    result = run(*words, "-o", "r.json", "--num-tokens", "2", *FLOW)
    assert result.exit_code == 0, result.output
    config = json.loads(Path("r.json").read_text(encoding="utf-8"))["results"][0]["config"]
    told = {name: config[name] for name in ("num_tokens", "decode_steps", "decode_guidance")}
    assert told == {"num_tokens": 2, "decode_steps": 2, "decode_guidance": 1.5}
    result = run(*words, "--num-tokens", "9")
    assert result.exit_code == 2
    assert "num_tokens=9" in result.output
