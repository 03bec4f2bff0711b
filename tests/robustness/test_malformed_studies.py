"""Studies that are none, and folders whose records are torn: one line, exit code 2, nothing touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.robustness.conftest import Refused

GOOD = "title: t\noutput: out\nprotocol: scenes\ngenerate: [{model: scenes-var}]\n"
BAD = {
    "": "holds no mapping",
    "- title": "holds no mapping",
    "title: [": "is not valid YAML",
    "a: &x 1\nb: *x": "alias",
    "!!python/object:os.system {}": "is not valid YAML",
    GOOD + "title: 3": "title=3",
    GOOD + "count: 1e400": "count=",
    GOOD + f"count: {'9' * 200}x": "count=",
    GOOD + "seed: [0, zero]": "seed",
    GOOD + "threads: -3": "threads=-3",
    GOOD + "generate: {model: scenes-var}": "generate=",
    GOOD + "generate: [scenes-var]": "generate[0] is 'scenes-var'",
    GOOD + "generate: [{model: [scenes-var, scenes-var]}]": "same name",
    GOOD + f"generate: [{{model: {'m' * 300}}}]": "too long a name",
    GOOD + 'output: "a\\0b"': "is no folder",
    GOOD + "prompts: nowhere.txt": "nowhere.txt",
    GOOD + "prompts: []": "prompts",
    GOOD + "metrics: {generate: []}": "names none",
    GOOD + "reference: nowhere": "nowhere",
    GOOD + "reference: scenes:nowhere": "is no split",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text.removeprefix(GOOD)[:40] or "empty")
def test_studies_that_are_none(refused: Refused, tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    refused("compare", "s.yaml", told=BAD[text])


def test_bytes_that_are_no_text(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\0title")
    refused("compare", "s.yaml", told="is not valid YAML")
    refused("compare", ".", told="is no file")


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[]",
        '{"schema": 2}',
        json.dumps({"schema": 1, "kind": "visgen-study-cell", "status": "done", "cell": {"name": "x"}}),
        json.dumps({"schema": 1, "kind": "visgen-study-cell", "status": "lost", "cell": {}}),
        "[" * 5000,
    ],
    ids=lambda text: text[:20],
)
def test_torn_records(refused: Refused, tmp_path: Path, record: str) -> None:
    (tmp_path / "s.yaml").write_text(GOOD)
    cells = tmp_path / "out" / "cells"
    cells.mkdir(parents=True)
    (cells / "generate-scenes-var.json").write_text(record)
    (tmp_path / "out" / "study.yaml").write_text(GOOD)
    (tmp_path / "out" / ".study.lock").touch()
    refused("compare", "s.yaml", "--no-run", told="generate-scenes-var.json")
    refused("compare", "s.yaml", told="generate-scenes-var.json")
    refused("compare", "--diff", "out", "out", told="out")
