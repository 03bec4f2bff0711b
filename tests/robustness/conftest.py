"""Types broken commands at `visgen`, and looks at what they say and leave behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.pipelines.conftest import LENGTH, WORDS, make_generator, make_tokenizer
from visgen.cli.main import app

LONGEST_LINE = 2000  # characters of an error: whatever was typed, it stays readable

Run = Callable[..., Result]
Refused = Callable[..., str]


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder: bytes of files, and what else is there."""
    paths = sorted(folder.rglob("*"))
    return {os.fspath(path.relative_to(folder)): _content(path) for path in paths}


def _content(path: Path) -> bytes | str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    return path.read_bytes() if path.is_file() else "special"


def one_line(stderr: str) -> str:
    """The only line of an error."""
    lines = stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("visgen: "), stderr
    assert len(lines[0]) < LONGEST_LINE and "Traceback" not in stderr
    return lines[0]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Types a `visgen` command in an empty folder."""
    monkeypatch.delenv("VISGEN_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], prog_name="visgen")


@pytest.fixture
def refused(run: Run, tmp_path: Path) -> Refused:
    """Types a command that must end with code 2 and one line that holds `told`, and must leave all as it was;
    gives the line."""

    def check(*words: object, told: str = "") -> str:
        before = snapshot(tmp_path)
        result = run(*words)
        assert result.exit_code == 2, f"{result.exit_code}: {result.output}"
        line = one_line(result.stderr)
        assert told in line, line
        assert result.stdout == ""
        assert snapshot(tmp_path) == before
        return line

    return check


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text-to-image model of 16×16 pixels, to be copied and broken."""
    from visgen.pipelines.prompts import WordVocabulary
    from visgen.pipelines.text_to_image import TextToImagePipeline

    text = WordVocabulary.from_words(WORDS, LENGTH)
    options = {"condition": "prompt", "text_length": LENGTH, "text_vocab_size": text.vocab_size}
    folder = tmp_path_factory.mktemp("models") / "text"
    TextToImagePipeline(make_tokenizer(), make_generator(**options), text).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def class_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny class-to-image model of five classes."""
    from visgen.pipelines.class_to_image import ClassToImagePipeline

    folder = tmp_path_factory.mktemp("models") / "class"
    ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5)).save_pretrained(folder)
    return folder


@pytest.fixture
def model(text_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny text model in the folder of the test, named "model"."""
    return Path(shutil.copytree(text_model, tmp_path / "model"))
