"""Prompts of judges, arrays of images and feature models that are none, for `visgen evaluate`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.robustness.conftest import Refused


def text(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


GENEVAL: dict[str, Callable[[Path], object]] = {
    "missing.jsonl": lambda path: None,
    "folder.jsonl": lambda path: path.mkdir(),
    "pipe.jsonl": lambda path: os.mkfifo(path),
    "empty.jsonl": text("\n"),
    "binary.jsonl": text(b"\xff\xfe\x00"),
    "broken.jsonl": text('{"tag": "colors"'),
    "deep.jsonl": text("[" * 100_000),
    "list.jsonl": text("[]"),
    "generate.jsonl": text('{"prompt": "a red circle"}'),
    "number.jsonl": text('{"tag": 3, "include": [{"class": "a", "count": 1}], "prompt": "a"}'),
    "unhashable.jsonl": text('{"tag": [], "include": [{"class": "a", "count": 1}], "prompt": "a"}'),
    "colour.jsonl": text(
        '{"tag": "colors", "include": [{"class": "a", "count": 1, "color": {}}], "prompt": "a"}'
    ),
    "position.jsonl": text(
        '{"tag": "position", "include": [{"class": "a", "count": 1, "position": [[], 0]}], "prompt": "a"}'
    ),
    "long.jsonl": text('{"tag": "' + "x" * 10_000 + '", "include": [], "prompt": "a"}'),
}


@pytest.mark.parametrize("name", GENEVAL)
def test_geneval(refused: Refused, tmp_path: Path, name: str) -> None:
    GENEVAL[name](tmp_path / name)
    refused("evaluate", "scenes-var", "--export", "geneval", "--prompts", name, "-o", "out", told=name)


DPG: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "file": text("a red circle"),
    "nothing": lambda path: path.mkdir(),
    "empty": lambda path: (path.mkdir(), text(" ")(path / "1.txt")),
    "binary": lambda path: (path.mkdir(), text(b"\xff\xfe\x00")(path / "1.txt")),
}


@pytest.mark.parametrize("name", DPG)
def test_dpg(refused: Refused, tmp_path: Path, name: str) -> None:
    DPG[name](tmp_path / name)
    refused("evaluate", "scenes-var", "--export", "dpg", "--prompts", name, "-o", "out", told=name)


ARRAYS: dict[str, Callable[[Path], object]] = {
    "text.npz": text("no archive"),
    "object.npz": lambda path: np.savez(path, arr_0=np.array([{}], dtype=object)),
    "floats.npz": lambda path: np.savez(path, arr_0=np.zeros((2, 4, 4, 3))),
    "oblong.npz": lambda path: np.savez(path, arr_0=np.zeros((2, 4, 8, 3), np.uint8)),
    "nothing.npz": lambda path: np.savez(path, arr_0=np.zeros((0, 4, 4, 3), np.uint8)),
    "cut.npz": lambda path: (
        np.savez(path, arr_0=np.zeros((9, 4, 4, 3), np.uint8)),
        path.write_bytes(path.read_bytes()[:300]),
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(refused: Refused, tmp_path: Path, name: str) -> None:
    ARRAYS[name](tmp_path / name)
    refused("evaluate", name, "--metrics", "fid", told=name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--export", "geneval"], "-o DIR"),
        (["--export", "genevals", "-o", "out"], "did you mean geneval"),
        (["--export", "adm", "-o", "out.npz"], "-o DIR, not 'out.npz'"),
        (["--export", "adm", "-o", "there"], "-o DIR, not 'there'"),
        (["--export", "adm", "-o", "out", "--save-statistics", "s.npz"], "--save-statistics"),
        (["--export", "adm", "-o", "out", "scenes-ar"], "not of 2"),
        (["--export", "adm", "-o", "full", "--metrics", "fid"], "scores.json' exists"),
        (["--images-per-prompt", "3"], "add --export"),
        (["--feature-model", "cmmd"], "METRIC=MODEL"),
        (["--feature-model", "cmmd=nowhere"], "add cmmd to --metrics"),
        (["--feature-model", "fid=nowhere"], "'fid' is no metric with a network"),
        (["--metrics", "cmmd", "--feature-model", "cmmd=there", "--offline"], "hf download"),
        (["--metrics", "clip_score", "--feature-model", "clip_score=full", "--offline"], "hf download"),
        (["--protocol", "scenes-vqa", "--export", "adm", "-o", "out"], "--export"),
        (["--protocol", "adm50k", "--reference", "full"], "full"),
    ],
)
def test_options(refused: Refused, tmp_path: Path, words: list[str], told: str) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "scores.json").write_text("{}")
    refused("evaluate", "scenes-var", *words, told=told)
