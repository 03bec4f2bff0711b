"""`visgen evaluate`: options, tables, files, refusals. The numbers are tested in tests/evaluation."""

# ruff: noqa: F811  (fixtures of another folder are imported by name)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.evaluation.conftest import models, pictures, toy, write_pictures  # noqa: F401
from visgen.cli.scores import number

Run = Callable[..., Result]


def evaluate(run: Run, *words: object) -> Result:
    return run("evaluate", "--protocol", "toy", *words)


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def refused(result: Result, words: str) -> None:
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert len(lines) == 1 and words in lines[0], result.stderr


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("made"), 12, (16, 16), seed=5)


@pytest.mark.usefixtures("toy")
def test_models_and_folders_in_one_table(
    run: Run, models: Path, pictures: Path, folder: Path, tmp_path: Path
) -> None:
    words = ["--reference", pictures, "--metrics", "fid,precision", "-n", 12, "-o", "r.json"]
    text = done(evaluate(run, models / "text", models / "class", folder, *words)).stdout
    assert "protocol toy v1" in text and "12 images" in text and "fid ↓" in text and "precision ↑" in text
    assert text.splitlines()[-1] == "r.json"
    names = [one["subject"]["name"] for one in json.loads((tmp_path / "r.json").read_text())["results"]]
    assert names == [str(models / "text"), str(models / "class"), str(folder)]
    assert all(name.rsplit("/", 1)[-1] in text for name in names)


@pytest.mark.usefixtures("toy")
def test_an_earlier_result_stands_beside_new_ones_under_one_setting_only(
    run: Run,
    pictures: Path,
    folder: Path,
    tmp_path: Path,
) -> None:
    words = ["--reference", pictures, "--metrics", "fid"]
    done(evaluate(run, folder, *words, "-o", "old.json"))
    both = done(evaluate(run, folder, "old.json", *words, "-o", "new.json"))
    rows = [line for line in both.stdout.splitlines() if folder.name in line]
    assert len(rows) == 2 and rows[0].split()[1:] == rows[1].split()[1:]
    assert len(json.loads((tmp_path / "new.json").read_text())["results"]) == 1
    assert folder.name in done(run("evaluate", "old.json", "new.json")).stdout
    refused(evaluate(run, folder, "old.json", *words, "-n", 6), "image counts differ, 12 and 6")
    document = json.loads((tmp_path / "old.json").read_text())
    document["results"][0]["protocol"]["name"] = "clean"
    (tmp_path / "clean.json").write_text(json.dumps(document))
    refused(run("evaluate", "old.json", "clean.json"), "protocols differ, toy v1 and clean v1")
    refused(evaluate(run, folder, "clean.json", *words), "protocols differ")


@pytest.mark.usefixtures("toy")
def test_statistics_are_kept(run: Run, pictures: Path, folder: Path) -> None:
    words = ["--metrics", "fid", "-o"]
    done(evaluate(run, folder, "--reference", pictures, "--save-statistics", "s.npz", *words, "images.json"))
    done(evaluate(run, folder, "images.json", "--reference", "s.npz", *words, "statistics.json"))
    refused(evaluate(run, folder, "--reference", "s.npz", "--metrics", "kid"), "give a folder")
    refused(run("evaluate", folder, "--reference", "s.npz", "--protocol", "scenes"), "toy v1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing"], "missing"),
        (["FOLDER", "--metrics", "fidd"], "did you mean"),
        (["FOLDER", "--protocol", "admm"], "did you mean adm"),
        (["FOLDER", "--reference", "nowhere"], "--reference 'nowhere'"),
        (["FOLDER", "--reference", "scenes:nowhere"], "scenes:validation"),
        (["FOLDER"], "64"),
        (["FOLDER", "-n", "13"], "are 12"),
        (["FOLDER", "-o", "old.txt"], ".json"),
        (["FOLDER", "-o", "there.json"], "exists"),
        (["FOLDER", "--save-statistics", "there.npz"], "exists"),
        (["FOLDER", "--save-statistics", "s.txt"], ".npz"),
        (["there.json"], "there.json"),
        (["FOLDER", "--prompts", "missing.txt"], "missing.txt"),
        (["FOLDER", "--device", "cuda:77"], "cuda:77"),
        (["FOLDER", "--metrics", "is"], "class logits"),
        (["FOLDER", "--metrics", "psnr"], "need a model"),
        (["FOLDER", "--protocol", "adm", "--inception-weights", "none.pth"], "none.pth"),
        (["CLASS"], "draws classes"),
        (["CLASS", "--reference", "FOLDER", "--metrics", "lpips"], "--lpips-weights"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(
    run: Run,
    models: Path,
    folder: Path,
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    for name in ("there.json", "there.npz"):
        (tmp_path / name).write_text("mine")
    places = {"FOLDER": str(folder), "CLASS": str(models / "class")}
    refused(run("evaluate", *[places.get(word, word) for word in words]), message)
    assert (tmp_path / "there.json").read_text() == "mine"


def test_numbers_for_people() -> None:
    assert number("precision", 0.98765) == "98.8 %"
    assert number("fid", 1.23456) == "1.235" and number("kid", 0.00123456) == "0.001235"
    assert number("fid", 123.456) == "123.5" and number("psnr", 32.109) == "32.11"


@pytest.mark.usefixtures("toy")
def test_what_bounds_a_fid_is_told(run: Run, models: Path, pictures: Path) -> None:
    text = done(evaluate(run, models / "text", "--reference", pictures, "--metrics", "fid,rfid")).stdout
    assert "ceiling" in text and "real (6 and 6 images): the floor" in text


@pytest.mark.usefixtures("toy")
def test_an_export_is_laid_out_and_scored(run: Run, models: Path, pictures: Path, tmp_path: Path) -> None:
    words = ["--export", "adm", "-n", 3, "-o", "out"]
    text = done(run("evaluate", models / "class", *words)).stdout
    assert text == "out/adm.npz: 3 images, 3 of them new, for evaluations/evaluator.py of guided-diffusion\n"
    text = done(evaluate(run, models / "class", *words, "--reference", pictures, "--metrics", "fid")).stdout
    assert "3 images, 0 of them new" in text and "protocol toy v1" in text
    records = json.loads((tmp_path / "out" / "scores.json").read_text())["results"]
    assert [list(record["metrics"]) for record in records] == [["fid"]]


@pytest.mark.usefixtures("toy")
def test_prompts_of_a_judge(run: Run, models: Path, tmp_path: Path) -> None:
    line = {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "red"}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    words = ["--export", "geneval", "--prompts", "m.jsonl", "--images-per-prompt", 2, "-o", "out"]
    text = done(run("evaluate", models / "text", *words)).stdout
    assert text.startswith("out/geneval: 2 images, 2 of them new, for evaluation/evaluate_images.py")
    assert (tmp_path / "out/geneval/00000/samples/0001.png").is_file()
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "7.txt").write_text("blue")
    words = ["--export", "dpg", "--prompts", "prompts", "-o", "grids-1.3b"]
    done(run("evaluate", models / "text", *words))
    assert (tmp_path / "grids-1.3b/dpg/7.png").is_file()


@pytest.mark.usefixtures("toy")
def test_an_export_that_was_interrupted_goes_on(
    run: Run, models: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visgen.evaluation.exports.adm import AdmLayout

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    words = [
        models / "class",
        "--export",
        "adm",
        "-n",
        3,
        "-o",
        "out",
        "--reference",
        pictures,
        "--metrics",
        "fid",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(AdmLayout, "arrange", interrupt)
        result = evaluate(run, *words)
    assert result.exit_code == 130 and "goes on where it stopped, in out" in result.stderr
    assert "3 images, 0 of them new" in done(evaluate(run, *words)).stdout
    assert (tmp_path / "out" / "adm.npz").is_file() and (tmp_path / "out" / "scores.json").is_file()
    refused(evaluate(run, *words), "scores.json' exists")
