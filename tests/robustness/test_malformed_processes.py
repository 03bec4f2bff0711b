"""A handful of the same in processes of their own, where arguments are bytes and a pipe can hang."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.robustness.conftest import one_line, snapshot

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds: a busy machine takes a while to load torch


def visgen(folder: Path, *words: str | bytes, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-m", "visgen", *words],
        cwd=folder,
        env=environment,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **({"stdout": subprocess.PIPE} | options),
    )


@pytest.mark.parametrize(
    "words",
    [
        ["info", "pipe"],
        ["generate", "a red circle", "-o", "/dev/full"],
        ["generate", "--red"],
        ["edit", b"\xff\xfe.png", "--box", "0,0,1,1"],
    ],
    ids=lambda words: str(words[-1])[:20],
)
def test_refusals(tmp_path: Path, words: list[str | bytes]) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = snapshot(tmp_path)
    result = visgen(tmp_path, *words)
    assert result.returncode == 2 and result.stdout == "", result.stderr
    one_line(result.stderr)
    assert snapshot(tmp_path) == before


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / os.fsdecode(b"\xff.png"))
    result = visgen(tmp_path, "reconstruct", b"\xff.png")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_standard_output(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        result = visgen(tmp_path, "models", stdout=full)
    assert result.returncode != 0
    assert "No space left" in one_line(result.stderr)
