"""Files of prompts that are none, for `visgen generate --prompts`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.robustness.conftest import Refused


def text(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


FILES: dict[str, Callable[[Path], object]] = {
    "missing.txt": lambda path: None,
    "folder.txt": lambda path: path.mkdir(),
    "pipe.txt": lambda path: os.mkfifo(path),
    "device.txt": lambda path: path.symlink_to("/dev/zero"),
    "circle.txt": lambda path: path.symlink_to(path.name),
    "empty.txt": text(""),
    "binary.txt": text(b"\xff\xfe\x00red"),
    "long.txt": text("red " * 10_000),
    "prompts.csv": text("a red circle"),
    "prompts": text("a red circle"),
    "empty.jsonl": text("\n\n"),
    "broken.jsonl": text('{"prompt": "a"'),
    "deep.jsonl": text("[" * 100_000),
    "list.jsonl": text('["a red circle"]'),
    "number.jsonl": text('{"prompt": 3}'),
    "key.jsonl": text('{"promt": "a"}'),
    "both.jsonl": text('{"prompt": "a", "label": 3}'),
    "label.jsonl": text('{"label": 3}'),
    "surrogate.jsonl": text('{"prompt": "\\ud800"}'),
}


@pytest.mark.parametrize("name", FILES)
def test_files(refused: Refused, tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    refused("generate", "--prompts", name, "-o", "out")


@pytest.mark.parametrize("place", ["", "one.png", "p.txt", "p.txt/out", "/dev/full", "x" * 300])
def test_folders(refused: Refused, tmp_path: Path, place: str) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n")
    refused("generate", "--prompts", "p.txt", "-o", place)
