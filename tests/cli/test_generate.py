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
from visgen.pipelines import folder as folder_module
from visgen.pipelines.folder import FolderResult
from visgen.pipelines.rows import Row

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


def test_steps_and_solver_are_passed_on(run: Run, stub: StubPipeline) -> None:
    assert run("generate", "a", "--steps", 12, "--solver", "ode").exit_code == 0
    assert options(stub) == {"num_inference_steps": 12, "solver": "ode"}


def test_an_unknown_solver_is_refused_before_loading(run: Run, stub: StubPipeline) -> None:
    result = run("generate", "a", "--solver", "heun")
    assert result.exit_code == 2
    assert "--solver 'heun' must be sde or ode" in result.stderr
    assert stub.loaded == (None, {})


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


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The calls of `generate_folder`, which does nothing but count."""
    calls: list[dict[str, object]] = []

    def record(pipe: object, rows: list[Row], folder: Path, **options: object) -> FolderResult:
        options.pop("on_progress")(1, 6)  # type: ignore[operator]
        calls.append({"rows": rows, "folder": folder, **options})
        return FolderResult(folder, total=6, made=5, seed=7)

    monkeypatch.setattr(folder_module, "generate_folder", record)
    return calls


def test_a_file_of_prompts_goes_into_a_folder(
    run: Run, stub: StubPipeline, tmp_path: Path, batches: list[dict[str, object]]
) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n\na star\n")
    result = run("generate", "--prompts", "p.txt", "-o", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "out: 6 images, 5 of them new, seed 7\n"
    assert stub.loaded == ("scenes-var", {"task": "text-to-image"})
    assert batches == [{"rows": [Row("a red circle"), Row("a star")], "folder": Path("out"), "num_images": 1}]


def test_options_reach_a_batch(
    run: Run, stub: StubPipeline, tmp_path: Path, batches: list[dict[str, object]]
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "seed": 4}')
    words = ["--seed", 0, "--negative", "blue", "--top-k", "none", "--guidance-scale", 2, "--batch-size", 3]
    run("generate", "--prompts", "p.jsonl", "-n", 2, "-o", "out", "-m", "other", "--dtype", "bf16", *words)
    assert stub.loaded == ("other", {"task": "text-to-image", "dtype": "bf16"})
    assert batches[0] == {
        "rows": [Row("a", 4)],
        "folder": Path("out"),
        "num_images": 2,
        "seed": 0,
        "negative_prompt": "blue",
        "top_k": None,
        "guidance_scale": 2.0,
        "batch_size": 3,
    }


def test_a_file_of_labels_loads_a_class_model(
    run: Run, stub: StubPipeline, tmp_path: Path, batches: list[dict[str, object]]
) -> None:
    (tmp_path / "p.jsonl").write_text('{"label": 3}')
    assert run("generate", "--prompts", "p.jsonl", "-o", "out").exit_code == 0
    assert stub.loaded[1]["task"] == "class-to-image"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a star", "-o", "out"], "--prompts and a prompt"),
        (["--label", "3", "-o", "out"], "--prompts and --label"),
        (["--grid", "-o", "out"], "--prompts and --grid"),
        (["--progressive", "-o", "out"], "--prompts and --progressive"),
        ([], "--prompts needs a folder: -o DIR"),
        (["-o", "out.png"], "--prompts needs a folder: -o DIR, not 'out.png'"),
        (["-o", "out.jpg"], "-o out.jpg: pictures are written as PNG"),
        (["-o", "out", "--prompts", "missing.txt"], "'missing.txt' does not exist"),
        (["-o", "out", "--prompts", "bad.jsonl"], "bad.jsonl, line 2: unknown key 'x'"),
        (["-o", "out", "--prompts", "."], "must end in .txt"),
        (["-o", "out", "--temperature", "0"], "temperature=0"),
    ],
)
def test_a_batch_is_refused_in_one_line(
    run: Run, stub: StubPipeline, tmp_path: Path, words: list[str], told: str
) -> None:
    (tmp_path / "p.txt").write_text("a red circle")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "x": 1}')
    result = run("generate", "--prompts", "p.txt", *words)
    assert result.exit_code == 2
    assert told in result.stderr and len(result.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "p.txt"]


def test_an_interrupted_batch_says_how_to_go_on(
    run: Run, stub: StubPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, "generate_folder", interrupted)
    (tmp_path / "p.txt").write_text("a red circle")
    result = run("generate", "--prompts", "p.txt", "-o", "out")
    assert result.exit_code == 130
    assert result.stderr.splitlines() == [
        "visgen: the same command goes on where it stopped, in out",
        "visgen: interrupted",
    ]
