"""The verbs at real pipelines with tiny random models, saved and loaded as folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from tests.pipelines.conftest import LENGTH, SCALES, SIZE, WORDS, make_generator, make_tokenizer
from visgen.data.images import read_png_metadata
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.text_to_image import TextToImagePipeline

Run = Callable[..., Result]
PROMPT = "a red circle above a blue"


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "text"
    text = WordVocabulary.from_words(WORDS, LENGTH)
    generator = make_generator(condition="prompt", text_length=LENGTH, text_vocab_size=text.vocab_size)
    TextToImagePipeline(make_tokenizer(), generator, text, {"top_k": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def class_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "class"
    ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5)).save_pretrained(folder)
    return folder


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def test_the_same_seed_and_prompt_give_the_same_pixels(run: Run, text_model: Path, tmp_path: Path) -> None:
    done(run("generate", PROMPT, "-m", text_model, "--seed", 3, "-o", "alone.png"))
    done(run("generate", "a blue square", PROMPT, "a red", "-m", text_model, "--seed", 3, "-o", "batch"))
    alone, batched = (Image.open(tmp_path / name) for name in ("alone.png", "batch/000001_0.png"))
    assert alone.size == (SIZE, SIZE)
    assert alone.tobytes() == batched.tobytes()


def test_options_reach_the_settings(run: Run, text_model: Path, tmp_path: Path) -> None:
    words = [
        "--guidance-scale",
        3,
        "--top-k",
        "none",
        "--top-p",
        0.9,
        "--temperature",
        0.7,
        "--dtype",
        "bfloat16",
    ]
    done(run("generate", PROMPT, "-m", text_model, *words, "--seed", 1, "-o", "x.png"))
    metadata = read_png_metadata(tmp_path / "x.png")
    settings = json.loads(metadata["settings"])
    sampling = {
        name: settings["sampling"][name] for name in ("guidance_scale", "top_k", "top_p", "temperature")
    }
    assert sampling == {"guidance_scale": 3.0, "top_k": None, "top_p": 0.9, "temperature": 0.7}
    assert settings["dtype"] == "bfloat16"
    assert (metadata["prompt"], metadata["seed"], metadata["ordinal"]) == (PROMPT, "1", "0")


def test_an_absent_seed_is_fresh_and_written_down(run: Run, text_model: Path, tmp_path: Path) -> None:
    seeds = set()
    for name in ("x.png", "y.png"):
        done(run("generate", PROMPT, "-m", text_model, "-o", name))
        seeds.add(int(read_png_metadata(tmp_path / name)["seed"]))
    assert len(seeds) == 2


def test_progressive_ends_with_the_image(run: Run, text_model: Path, tmp_path: Path) -> None:
    for option, name in (("--progressive", "strip.png"), ("--grid", "image.png")):
        done(run("generate", PROMPT, "-m", text_model, "--seed", 2, option, "-o", name))
    strip, image = (Image.open(tmp_path / name) for name in ("strip.png", "image.png"))
    assert strip.size == (len(SCALES) * (SIZE + 2) - 2, SIZE)
    assert strip.crop((strip.width - SIZE, 0, strip.width, SIZE)).tobytes() == image.tobytes()


def test_unknown_words_are_one_warning_line(run: Run, text_model: Path) -> None:
    lines = done(run("generate", "a red dog", "-m", text_model, "-o", "x.png")).stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("visgen: warning:")
    assert "dog" in lines[0]
    assert "circle" in lines[0]


def test_classes(run: Run, class_model: Path, tmp_path: Path) -> None:
    done(run("generate", "--label", 4, "--label", -1, "-m", class_model, "--seed", 0, "-n", 2, "-o", "out"))
    labels = [read_png_metadata(path)["label"] for path in sorted((tmp_path / "out").iterdir())]
    assert labels == ["4", "4", "-1", "-1"]


@pytest.mark.parametrize(
    "words",
    [
        ["--label", "5", "-m", "class"],
        ["a red circle", "-m", "class"],
        ["--label", "1", "-m", "text"],
        ["a red circle", "-m", "text", "--top-p", "1.5"],
        ["a red circle", "-m", "text", "--temperature", "0"],
        ["a red circle", "-m", "text", "--dtype", "int8"],
        ["a red circle a red circle a red circle", "-m", "text"],
        ["a red circle", "-m", "missing/folder/here"],
    ],
    ids=" ".join,
)
def test_bad_options_end_with_2(run: Run, text_model: Path, class_model: Path, words: list[str]) -> None:
    folders = {"text": str(text_model), "class": str(class_model)}
    result = run("generate", *[folders.get(word, word) for word in words])
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("visgen: ")


def test_edit_keeps_the_rest(run: Run, text_model: Path, tmp_path: Path) -> None:
    done(run("generate", PROMPT, "-m", text_model, "--seed", 1, "-o", "in.png"))
    box = ["--box", "0,0,0.5,1", "--prompt", "a blue square", "--seed", 5]
    done(run("edit", "in.png", *box, "--paste", "-m", text_model, "-o", "out.png"))
    before, after = (np.asarray(Image.open(tmp_path / name)) for name in ("in.png", "out.png"))
    assert (before[:, SIZE // 2 :] == after[:, SIZE // 2 :]).all()
    assert (before[:, : SIZE // 2] != after[:, : SIZE // 2]).any()


def test_edit_with_a_mask_is_edit_with_its_box(run: Run, text_model: Path, tmp_path: Path) -> None:
    done(run("generate", PROMPT, "-m", text_model, "--seed", 1, "-o", "in.png"))
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    common = ["--prompt", "a blue square", "--seed", 5, "-m", text_model]
    done(run("edit", "in.png", "--box", "0,0,0.5,1", *common, "-o", "box.png"))
    done(run("edit", "in.png", "--mask", "mask.png", *common, "-o", "mask-out.png"))
    assert Image.open(tmp_path / "box.png").tobytes() == Image.open(tmp_path / "mask-out.png").tobytes()


@pytest.mark.parametrize("region", [[], ["--box", "0,0,1,1", "--mask", "in.png"], ["--box", "0.5,0,0.2,1"]])
def test_edit_needs_one_region(run: Run, text_model: Path, tmp_path: Path, region: list[str]) -> None:
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "in.png")
    assert run("edit", "in.png", *region, "--prompt", "a red", "-m", text_model).exit_code == 2


@pytest.mark.parametrize("size", [(SIZE, SIZE), (50, 21), (5, 9)])
def test_reconstruct_any_size(run: Run, class_model: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.effect_noise(size, 50).convert("RGB").save(tmp_path / "in.png")
    lines = done(run("reconstruct", "in.png", "-m", class_model, "-o", "crop.png")).stdout.splitlines()
    assert lines[0] == "crop.png"
    assert 0 < float(lines[1].removeprefix("PSNR ").removesuffix(" dB")) < 100
    done(run("reconstruct", "in.png", "-m", class_model, "--tile", "-o", "tiled.png"))
    assert Image.open(tmp_path / "crop.png").size == (SIZE, SIZE)
    assert Image.open(tmp_path / "tiled.png").size == size


def test_reconstruct_progressive(run: Run, text_model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (SIZE, SIZE), "red").save(tmp_path / "in.png")
    done(run("reconstruct", "in.png", "-m", text_model, "--progressive", "-o", "strip.png"))
    assert Image.open(tmp_path / "strip.png").size == (len(SCALES) * (SIZE + 2) - 2, SIZE)
