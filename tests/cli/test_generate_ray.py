"""`--engine` of `visgen generate` and `tokenize`, and `visgen statistics`: options, jobs in one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.pipelines.conftest import make_generator, make_tokenizer, random_picture
from visgen.cli.console import settings
from visgen.data.webdataset import list_samples
from visgen.evaluation.protocols import get_protocol
from visgen.evaluation.statistics_file import load_statistics
from visgen.pipelines.class_to_image import ClassToImagePipeline

pytest.importorskip("webdataset")
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5)).save_pretrained(folder)
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"label": 1}\n{"label": 2, "seed": 5}\n')


@pytest.mark.usefixtures("labels")
def test_a_file_of_prompts_into_shards(run: Run, model: Path, tmp_path: Path) -> None:
    words = ("generate", "--prompts", "labels.jsonl", "-m", model, "-n", 3, "--seed", 4, "-o", "out")
    more = ("--engine", "local", "--shard-size", 4, "--batch-size", 2, "--guidance-scale", 2)
    for new in (6, 0):
        result = run(*words, *more)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"out: 6 images in 2 shards, {new} of them new, seed 4\n"
    keys = [
        sample.key
        for name in ("000000.tar", "000001.tar")
        for sample in list_samples(tmp_path / "out" / name)
    ]
    assert keys == [f"{n:09d}" for n in range(6)]
    record = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert (record["threads"], record["shard_size"], record["sampling"]["guidance_scale"]) == (1, 4, 2.0)
    refused = run(*words, "--engine", "local", "--shard-size", 3)
    assert refused.exit_code == 2 and "holds another batch" in refused.stderr


@pytest.mark.usefixtures("labels")
def test_threads_belong_to_the_job(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the command sets them
    words = ("generate", "--prompts", "labels.jsonl", "-m", model, "-o", "out", "--engine", "local")
    try:
        assert run("--threads", 2, *words).exit_code == 0
    finally:
        settings.threads = None
    assert json.loads((tmp_path / "out" / "batch.json").read_text())["threads"] == 2


@pytest.mark.usefixtures("labels")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a red circle", "--engine", "ray"], "are for a file of prompts"),
        (["a red circle", "--workers", "2"], "are for a file of prompts"),
        (["a red circle", "--shard-size", "2"], "--shard-size 2 needs --engine"),
        (["--prompts", "labels.jsonl", "-o", "out", "--shard-size", "2"], "--shard-size 2 needs --engine"),
        (["--prompts", "labels.jsonl", "-o", "out", "--workers", "2"], "--workers 2 needs --engine ray"),
        (["--prompts", "labels.jsonl", "-o", "out", "--engine", "spark"], "'spark' must be local or ray"),
        (["--prompts", "labels.jsonl", "-o", "out", "--engine", "local", "--workers", "2"], "is one process"),
        (["--prompts", "labels.jsonl", "--engine", "ray"], "needs a folder"),
        (
            ["--prompts", "labels.jsonl", "-o", "out", "--engine", "ray", "--device", "cuda:1"],
            "use --device cuda",
        ),
    ],
)
def test_options_that_do_not_fit(run: Run, tmp_path: Path, words: list[str], told: str) -> None:
    result = run("generate", *words)
    assert result.exit_code == 2 and told in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_bad_line_is_named(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"label": 1}\n{"label": 1, "sed": 2}\n')
    result = run("generate", "--prompts", "labels.jsonl", "-m", model, "-o", "out", "--engine", "local")
    assert result.exit_code == 2 and "labels.jsonl, line 2: unknown key 'sed'" in result.stderr


def test_generated_shards_become_tokens(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"label": 1}\n')
    words = ("generate", "--prompts", "labels.jsonl", "-m", model, "-n", 5, "-o", "out", "--seed", 0)
    assert run(*words, "--engine", "local", "--shard-size", 2).exit_code == 0
    for source, name in (("out/*.tar", "tokens"), ("out/{000000..000002}.tar", "tokens-2")):
        result = run("tokenize", source, "-t", model, "-o", name, "--shard-size", 3)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(
            f"{name}: 5 images, 5 of them new; 21 tokens each, 105 bits an image;"
        )
        assert len(list((tmp_path / name).glob("*.safetensors"))) == 2
    assert run("tokenize", "none.tar", "-t", model).exit_code == 2


def test_tokens_of_a_folder_by_an_engine(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for n in range(3):
        random_picture(seed=n).save(tmp_path / "images" / f"{n}.png")
    assert run("tokenize", "images", "-t", model, "-o", "one").exit_code == 0
    assert run("tokenize", "images", "-t", model, "-o", "two", "--engine", "local").exit_code == 0
    first, second = ((tmp_path / name / "shard-00000.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second
    refused = run("tokenize", "images/0.png", "-t", model, "--engine", "ray")
    assert refused.exit_code == 2 and "is one image" in refused.stderr


def test_statistics_of_a_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for n in range(3):
        random_picture(64, 64, seed=n).save(tmp_path / "images" / f"{n}.png")
    words = ("statistics", "images", "--protocol", "scenes", "-o")
    assert run(*words, "a.npz").stdout == "a.npz: 3 images, protocol scenes v1\n"
    found = load_statistics(tmp_path / "a.npz", get_protocol("scenes"))
    assert found.statistics.count == 3 and found.reference == "images"
    assert run(*words, "a.npz").exit_code == 2
    assert "must end in .npz" in run(*words, "a.npy").stderr
