"""`visgen tokenize`, `detokenize` and `reconstruct --num-tokens` at real pipelines of tiny random models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from tests.pipelines.conftest import SIZE, random_picture
from tests.pipelines.tiny_tokenizers import tiny_pipe
from visgen.cli.lettering import GAP, labelled_strip
from visgen.cli.token_options import counts, errors
from visgen.data.images import read_png_metadata
from visgen.errors import InputError
from visgen.pipelines.token_shards import read_shard
from visgen.tokenizers.tokens import Sequence1D

Run = Callable[..., Result]
MODELS = {
    "flextok": "FlexTokTokenizer",
    "karl": "KARLTokenizer",
    "kl": "KLTokenizer",
    "vq": "VQTokenizer",
    "seed": "SEEDTokenizer",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, kind in MODELS.items():
        tiny_pipe(kind).save_pretrained(folder / name)
    return {name: folder / name for name in MODELS}


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for n, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
        random_picture(24, 16, seed=n).save(tmp_path / "images" / name)


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def test_an_image_and_back(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    words = ("images/a.png", "-t", models["flextok"])
    assert done(run("tokenize", *words, "--num-tokens", 3)).stdout == "a.safetensors: 3 tokens, 12 bits\n"
    header, tokens = read_shard(tmp_path / "a.safetensors")
    assert header.names == ("a.png",) and header.origin.num_tokens == 3
    assert tokens.layout == Sequence1D(3)
    assert done(run("detokenize", "a.safetensors")).stdout == "a.png\n"
    about = read_png_metadata(tmp_path / "a.png")
    assert about["image"] == "a.png" and about["model"] == str(models["flextok"])
    made = tiny_pipe("FlexTokTokenizer")(Image.open(tmp_path / "images/a.png"), num_tokens=3).images[0]
    assert np.array_equal(np.asarray(made), np.asarray(Image.open(tmp_path / "a.png")))


def test_continuous_tokens_and_back(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    words = ("tokenize", "images/a.png", "-t", models["kl"], "-o", "x.safetensors")
    assert done(run(*words)).stdout == "x.safetensors: 16 tokens\n", "there is no number of bits"
    assert read_shard(tmp_path / "x.safetensors")[1].latents.shape == (1, 16, 4)
    done(run("detokenize", "x.safetensors", "-o", "y.png"))
    done(run("reconstruct", "images/a.png", "-t", models["kl"], "-o", "z.png"))
    made, again = (np.asarray(Image.open(tmp_path / name)) for name in ("y.png", "z.png"))
    assert made.shape == (SIZE, SIZE, 3) and np.array_equal(made, again[:, -SIZE:])
    lines = done(run("inspect", "images/a.png", "-t", models["kl"], "-o", "i.png")).stdout.splitlines()
    assert sum(" dB" in line for line in lines) == 1


def test_names_of_output(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    for output, made in (("x.safetensors", "x.safetensors"), ("some", "some/a.safetensors")):
        words = ("tokenize", "images/a.png", "-t", models["vq"], "-o", output)
        assert done(run(*words)).stdout == f"{made}: 16 tokens, 80 bits\n"
        assert (tmp_path / made).is_file()
    done(run("tokenize", "images/a.png", "-t", models["vq"]))
    assert "a-2.safetensors" in done(run("tokenize", "images/a.png", "-t", models["vq"])).stdout
    assert done(run("detokenize", "x.safetensors", "-o", "pictures")).stdout == "pictures/a.png\n"
    assert done(run("detokenize", "x.safetensors", "-t", models["vq"], "-o", "y.png")).stdout == "y.png\n"


def test_a_folder_and_back(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    words = ("tokenize", "images", "-t", models["karl"], "--max-error", 0.05, "--shard-size", 2)
    line = done(run(*words)).stdout
    assert line.startswith("images-tokens: 3 images, 3 of them new; ") and "bits an image" in line
    assert line.endswith(" images/s\n")
    assert "3 images, 0 of them new" in done(run(*words)).stdout
    index = json.loads((tmp_path / "images-tokens/index.json").read_text())
    assert [image["name"] for image in index["images"]] == ["a.png", "b.jpg", "sub/c.png"]
    assert index["origin"]["max_error"] == 0.05 and index["origin"]["model"] == str(models["karl"])
    assert done(run("detokenize", "images-tokens", "-o", "out")).stdout == "out: 3 images, 3 of them new\n"
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")) == [
        "a.png",
        "b.png",
        "sub/c.png",
    ]
    assert Image.open(tmp_path / "out/b.png").size == (SIZE, SIZE)
    shard = "images-tokens/shard-00000.safetensors"
    assert done(run("detokenize", shard)).stdout == "shard-00000-images: 2 images, 2 of them new\n"


def test_a_seed_and_steps_change_the_picture(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    done(run("tokenize", "images/a.png", "-t", models["flextok"], "-o", "x.safetensors"))
    options = {"plain": (), "seed": ("--seed", 3), "steps": ("--decode-steps", 7), "again": ("--seed", 3)}
    for name, words in options.items():
        done(run("detokenize", "x.safetensors", *words, "-o", f"{name}.png"))
    plain, seed, steps, again = ((tmp_path / f"{name}.png").read_bytes() for name in options)
    assert len({plain, seed, steps}) == 3 and seed == again
    settings = json.loads(read_png_metadata(tmp_path / "steps.png")["settings"])
    assert settings["decoding"]["num_inference_steps"] == 7


def test_seed_tokens_are_rendered(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    done(run("tokenize", "images/a.png", "-t", models["seed"], "-o", "x.safetensors"))
    done(run("detokenize", "x.safetensors", "--seed", 1, "-o", "y.png"))
    assert Image.open(tmp_path / "y.png").size == (SIZE, SIZE)


def test_a_strip_of_lengths(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    words = ("reconstruct", "images/a.png", "-t", models["flextok"], "--num-tokens", "1,2,…,8", "-o", "s.png")
    lines = done(run(*words)).stdout.splitlines()
    assert lines[0] == "s.png" and len(lines) == 5
    assert [line.split(",")[0] for line in lines[1:]] == ["1 token", "2 tokens", "4 tokens", "8 tokens"]
    assert all("L1 0." in line and "dB" in line for line in lines[1:])
    strip = Image.open(tmp_path / "s.png")
    assert strip.width == 5 * (10 * SIZE + GAP) + GAP  # 16 pixels are drawn as 160
    assert json.loads(read_png_metadata(tmp_path / "s.png")["settings"])["strip"][0] == {"num_tokens": 1}


def test_a_strip_of_errors(run: Run, models: dict[str, Path]) -> None:
    words = (
        "reconstruct",
        "images/a.png",
        "-m",
        models["karl"],
        "--max-error",
        "0.05,0.3",
        "--num-tokens",
        8,
    )
    lines = done(run(*words)).stdout.splitlines()
    assert lines[0] == "a-reconstruction.png"
    assert ["wanted L1 0.05" in lines[1], "wanted L1 0.3" in lines[2]] == [True, True]


def test_lists_of_numbers() -> None:
    assert counts("1,2,4,…,256") == [1, 2, 4, 8, 16, 32, 64, 128, 256] == counts("1,...,256")
    assert counts("3, …, 100") == [3, 6, 12, 24, 48, 96, 100]
    assert counts("16") == [16] and counts("4,4,1") == [4, 1] and counts(None) is None
    assert errors("0.02, 5e-2") == [0.02, 0.05] and errors(None) is None
    for text in ("", "…", "…,4", "1,…", "1,,2", "x", "0", "-1", "1.5", "1,…,…", "9" * 9):
        with pytest.raises(InputError, match="--num-tokens"):
            counts(text)
    for text in ("", "nan", "0", "inf", "x", "0.1,"):
        with pytest.raises(InputError, match="--max-error"):
            errors(text)


def test_a_strip_has_its_words_below() -> None:
    strip = labelled_strip([Image.new("RGB", (64, 64), "red")] * 2, [["original"], ["1 token", "L1 0.1"]])
    pixels = np.asarray(strip)
    side = 64 * 3
    assert strip.width == 2 * side + 3 * GAP
    assert (pixels[GAP : GAP + side, GAP : GAP + side] == (255, 0, 0)).all()
    assert (pixels[GAP + side :, GAP : GAP + side] < 100).any(), "no ink below the picture"
    many = labelled_strip([Image.new("RGB", (300, 300))] * 13, [["x"]] * 13)
    assert many.width == 12 * (300 + GAP) + GAP and many.height > 600


BAD = {
    "no image": ["tokenize", "missing.png", "-t", "vq"],
    "no model": ["tokenize", "images/a.png", "-t", "scenes-vqq"],
    "a knob it lacks": ["tokenize", "images/a.png", "-t", "vq", "--num-tokens", "3"],
    "too many": ["tokenize", "images", "-t", "flextok", "--num-tokens", "9", "-o", "out"],
    "no tokens": ["tokenize", "images/a.png", "-t", "flextok", "--num-tokens", "0"],
    "a file for a folder": ["tokenize", "images", "-t", "vq", "-o", "x.safetensors"],
    "a picture for tokens": ["tokenize", "images", "-t", "vq", "-o", "x.png"],
    "an empty folder": ["tokenize", "empty", "-t", "vq"],
    "no shards": ["tokenize", "images", "-t", "vq", "--shard-size", "0"],
    "no tokens there": ["detokenize", "images"],
    "an image for tokens": ["detokenize", "images/a.png"],
    "a missing file": ["detokenize", "x.safetensors"],
    "a picture for several": ["detokenize", "tokens", "-o", "x.png"],
    "a seed for nothing": ["detokenize", "tokens", "-o", "out", "--seed", "1"],
    "steps for nothing": ["detokenize", "tokens", "-o", "out", "--decode-steps", "3"],
    "guidance out of range": ["detokenize", "tokens", "-o", "out", "--decode-guidance", "-2"],
    "no list": ["reconstruct", "images/a.png", "-t", "flextok", "--num-tokens", "1,x"],
    "beyond": ["reconstruct", "images/a.png", "-t", "flextok", "--num-tokens", "1,…,16"],
    "two lists": ["reconstruct", "images/a.png", "-t", "karl", "--num-tokens", "1,2", "--max-error", "0.1"],
    "a strip of tiles": ["reconstruct", "images/a.png", "-t", "flextok", "--num-tokens", "1", "--tile"],
    "a strip of scales": ["reconstruct", "images/a.png", "-t", "vq", "--num-tokens", "1", "--progressive"],
    "an error it does not know": ["reconstruct", "images/a.png", "-t", "flextok", "--max-error", "0.1"],
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line(run: Run, models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").mkdir()
    if "tokens" in BAD[kind]:
        done(run("tokenize", "images", "-t", models["vq"], "-o", "tokens"))
    before = sorted(path for path in tmp_path.rglob("*"))
    result = run(*(models.get(word, word) for word in BAD[kind]))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1 and "Traceback" not in result.output
    assert sorted(path for path in tmp_path.rglob("*")) == before, "something was left"
