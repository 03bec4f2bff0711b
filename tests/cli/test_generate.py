"""`visgen generate` at a stub: what is passed on, which files appear, what they carry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

import visgen
from tests.cli.conftest import SIZE, STEPS, StubPipeline
from visgen.data.images import read_png_metadata

Run = Callable[..., Result]


def options(stub: StubPipeline) -> dict[str, object]:
    """Keywords of the call, less those that are always there."""
    return {
        k: v for k, v in stub.called[1].items() if k not in ("num_images_per_prompt", "callback_on_step_end")
    }


def test_absent_options_are_not_passed_on(run: Run, stub: StubPipeline) -> None:
    assert run("generate", "a red circle").exit_code == 0
    assert stub.loaded == ("scenes-var", {"task": "text-to-image"})
    assert stub.called[0] == (["a red circle"],)
    assert options(stub) == {}


def test_given_options_are_passed_on(run: Run, stub: StubPipeline) -> None:
    loading = ["-m", "other", "--dtype", "bf16", "--device", "cpu", "--offline"]
    sampling = ["--guidance-scale", 2, "--top-k", 5, "--top-p", 0.5, "--temperature", 0.8]
    result = run("generate", "a", "b", "-n", 2, "--seed", 7, "--negative", "blue", *loading, *sampling)
    assert result.exit_code == 0
    expected = {"task": "text-to-image", "dtype": "bf16", "device": "cpu", "local_files_only": True}
    assert stub.loaded == ("other", expected)
    assert stub.called[1]["num_images_per_prompt"] == 2
    law = {"guidance_scale": 2.0, "top_k": 5, "top_p": 0.5, "temperature": 0.8}
    assert options(stub) == {"seed": 7, "negative_prompt": "blue", **law}


def test_none_switches_a_filter_off(run: Run, stub: StubPipeline) -> None:
    assert run("generate", "a", "--top-k", "none", "--top-p", "None").exit_code == 0
    assert options(stub) == {"top_k": None, "top_p": None}


def test_zero_is_an_option_too(run: Run, stub: StubPipeline) -> None:
    run("generate", "a", "--seed", "0", "--guidance-scale", "0")
    assert options(stub) == {"seed": 0, "guidance_scale": 0.0}


def test_labels(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    assert run("generate", "--label", "207", "--label", "-1", "-o", "out").exit_code == 0
    assert stub.loaded[1]["task"] == "class-to-image"
    assert stub.called[0] == ([207, -1],)
    assert read_png_metadata(tmp_path / "out" / "000001_0.png")["label"] == "-1"


def test_one_image_gets_a_readable_name_and_overwrites_nothing(
    run: Run, stub: StubPipeline, tmp_path: Path
) -> None:
    names = [run("generate", "A red circle, above!").stdout for _ in range(3)]
    assert names == ["a-red-circle-above.png\n", "a-red-circle-above-2.png\n", "a-red-circle-above-3.png\n"]
    assert {path.name for path in tmp_path.iterdir()} == {name.strip() for name in names}


def test_a_given_name_is_overwritten(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    for seed in (1, 2):
        assert run("generate", "x", "--seed", seed, "-o", "deep/x.PNG").stdout == "deep/x.PNG\n"
    assert read_png_metadata(tmp_path / "deep" / "x.PNG")["seed"] == "2"


def test_several_images_go_into_a_folder(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    result = run("generate", "a", "b", "-n", "2", "-o", "out")
    expected = [f"out/{row:06d}_{j}.png" for row in range(2) for j in range(2)]
    assert result.stdout.splitlines() == expected
    greys = [Image.open(tmp_path / name).getpixel((0, 0))[0] for name in expected]
    assert greys == [0, 10, 20, 30]


def test_several_images_without_a_name(run: Run, stub: StubPipeline) -> None:
    assert run("generate", "two rings", "-n", "2").stdout.splitlines()[0] == "two-rings/000000_0.png"


def test_one_image_into_a_folder(run: Run, stub: StubPipeline) -> None:
    assert run("generate", "a", "-o", "out").stdout == "out/000000_0.png\n"


@pytest.mark.parametrize(
    ("prompts", "count", "cells"),
    [(["a"], 4, (2, 2)), (["a", "b"], 3, (3, 2)), (["a", "b", "c"], 1, (2, 2)), (["a"], 1, (1, 1))],
)
def test_grid(
    run: Run, stub: StubPipeline, tmp_path: Path, prompts: list[str], count: int, cells: tuple[int, int]
) -> None:
    assert run("generate", *prompts, "-n", count, "--grid", "-o", "grid.png").stdout == "grid.png\n"
    gap = 2
    assert Image.open(tmp_path / "grid.png").size == tuple(n * (SIZE + gap) - gap for n in cells)


def test_grid_into_a_folder(run: Run, stub: StubPipeline) -> None:
    assert run("generate", "a", "b", "--grid", "-o", "out").stdout == "out/grid.png\n"


def test_progressive_is_a_strip(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    assert run("generate", "a", "--progressive", "-o", "strip.png").exit_code == 0
    assert Image.open(tmp_path / "strip.png").size == (STEPS * (SIZE + 2) - 2, SIZE)


def test_progressive_grid_has_one_strip_per_line(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    assert run("generate", "a", "b", "--progressive", "--grid", "-o", "strips.png").exit_code == 0
    assert Image.open(tmp_path / "strips.png").size == (STEPS * (SIZE + 2) - 2, 2 * (SIZE + 2) - 2)


def test_progressive_needs_a_model_with_steps(run: Run, stub: StubPipeline) -> None:
    stub.has_steps = False
    assert run("generate", "a", "--progressive").exit_code == 2


def test_a_picture_says_how_it_was_made(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    run("generate", "ein Kreis – rot", "-n", "2", "--seed", "5", "-m", "some/model", "-o", "out")
    metadata = read_png_metadata(tmp_path / "out" / "000000_1.png")
    assert json.loads(metadata.pop("settings")) == {"sampling": {"top_k": 9}}
    assert metadata == {
        "prompt": "ein Kreis – rot",
        "seed": "5",
        "ordinal": "1",
        "model": "some/model",
        "visgen": visgen.__version__,
    }


def test_a_grid_says_how_its_images_were_made(run: Run, stub: StubPipeline, tmp_path: Path) -> None:
    run("generate", "a", "b", "--seed", "5", "--grid", "-o", "grid.png")
    metadata = read_png_metadata(tmp_path / "grid.png")
    assert json.loads(metadata["prompt"]) == ["a", "b"]
    assert json.loads(metadata["ordinal"]) == ["0", "1"]
    assert metadata["seed"] == "5"


def test_info_prints_the_metadata(run: Run, stub: StubPipeline) -> None:
    run("generate", "a", "--seed", "5", "-o", "x.png")
    lines = run("info", "x.png").stdout.splitlines()
    assert {"prompt: a", "seed: 5", "model: scenes-var"} <= set(lines)


def test_info_of_several_pictures_names_them(run: Run, stub: StubPipeline) -> None:
    run("generate", "a", "b", "-o", "out")
    lines = run("info", "out/000000_0.png", "out/000001_0.png").stdout.splitlines()
    assert lines[0] == "out/000000_0.png:"
    assert "prompt: b" in lines


def test_info_of_a_bare_picture(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "bare.png")
    result = run("info", "bare.png")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no metadata" in result.stderr
