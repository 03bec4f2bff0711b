"""`visgen edit`, `visgen reconstruct`, `visgen models` and `visgen train` at stubs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

import visgen.training
from tests.cli.conftest import SIZE, STEPS, StubPipeline
from visgen.cli.models import size
from visgen.cli.reconstruct import psnr
from visgen.data.images import read_png_metadata

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    Image.new("RGB", (SIZE, SIZE), "red").save(tmp_path / "in.png")
    Image.linear_gradient("L").resize((40, 20)).save(tmp_path / "wide.png")
    Image.new("L", (SIZE, SIZE), 255).save(tmp_path / "mask.png")


def options(stub: StubPipeline) -> dict[str, Any]:
    return {k: v for k, v in stub.called[1].items() if k != "num_images_per_prompt"}


def test_edit_with_a_box(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    result = run(
        "edit", "in.png", "--box", "0, 0,0.5,1", "--prompt", "a ring", "--seed", "3", "-o", "out.png"
    )
    assert (result.exit_code, result.stdout) == (0, "out.png\n")
    assert stub.loaded == ("scenes-var", {"task": "edit"})
    assert options(stub) == {"box": (0.0, 0.0, 0.5, 1.0), "prompt": "a ring", "seed": 3}
    assert read_png_metadata(tmp_path / "out.png")["prompt"] == "a ring"


def test_edit_with_a_mask(run: Run, stub: StubPipeline) -> None:
    assert run("edit", "in.png", "--mask", "mask.png", "--invert", "--paste", "--label", "0").exit_code == 0
    mask = options(stub).pop("mask")
    assert mask.getpixel((0, 0)) == (255, 255, 255)
    assert {k: v for k, v in options(stub).items() if k != "mask"} == {
        "invert": True,
        "paste": True,
        "label": 0,
    }


def test_edit_variants(run: Run, stub: StubPipeline) -> None:
    lines = run("edit", "in.png", "--box", "0,0,1,1", "-n", "3", "--prompt", "x").stdout.splitlines()
    assert lines == [f"in-edit/000000_{j}.png" for j in range(3)]


def test_reconstruct_prints_the_psnr(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    result = run("reconstruct", "in.png")
    assert result.stdout.splitlines() == ["in-reconstruction.png", "PSNR inf dB"]
    assert options(stub) == {}
    assert Image.open(tmp_path / "in-reconstruction.png").size == (SIZE, SIZE)


def test_reconstruct_several(run: Run, stub: StubPipeline) -> None:
    lines = run("reconstruct", "in.png", "wide.png", "-o", "out").stdout.splitlines()
    assert lines[0::2] == ["out/000000_in.png", "out/000001_wide.png"]
    assert all(line.startswith("PSNR ") for line in lines[1::2])


def test_reconstruct_tiles_the_whole_picture(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    assert run("reconstruct", "wide.png", "--tile", "-o", "out.png").stdout.endswith("PSNR inf dB\n")
    assert Image.open(tmp_path / "out.png").size == (40, 20)


def test_reconstruct_progressive_is_a_strip(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    assert run("reconstruct", "in.png", "--progressive", "-o", "out.png").exit_code == 0
    assert Image.open(tmp_path / "out.png").size == (STEPS * (SIZE + 2) - 2, SIZE)


def test_psnr() -> None:
    black, grey = (Image.new("RGB", (4, 4), (level,) * 3) for level in (0, 51))
    assert psnr(black, grey) == pytest.approx(13.979, abs=1e-3)  # 20 log10(255 / 51)
    assert psnr(grey, grey) == float("inf")


def test_models_as_json(run: Run) -> None:
    document = json.loads(run("models", "--json").stdout)
    assert document["schema"] == 1
    by_name = {row["name"]: row for row in document["models"]}
    assert by_name["var-d16"]["kind"] == "official"
    assert all(row["licence"] and row["size_bytes"] > 0 for row in by_name.values())


def test_models_as_a_table(run: Run) -> None:
    text = run("models").stdout
    assert all(
        word in text for word in ("licence", "recipe", "parity", "var-d16", "var-d36", "MIT", "1.7 GB")
    )


@pytest.mark.parametrize(("count", "text"), [(999, "1 kB"), (7_400_000, "7.4 MB"), (1_677_000_000, "1.7 GB")])
def test_sizes_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_train_calls_the_library(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    def train(recipe: Path, overrides: list[str], *, resume: bool) -> Path:
        calls.append((recipe, overrides, resume))
        return tmp_path / "run"

    monkeypatch.setattr(visgen.training, "train", train)
    assert run("train", "r.yaml", "steps=5", "optimizer.lr=1e-3").stdout == f"{tmp_path / 'run'}\n"
    assert run("train", "r.yaml", "--fresh").exit_code == 0
    assert calls == [(Path("r.yaml"), ["steps=5", "optimizer.lr=1e-3"], True), (Path("r.yaml"), [], False)]
