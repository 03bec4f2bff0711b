"""A study of the tiny models under the toy protocol, and made-up records for what is made of records."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.evaluation.conftest import models, pictures, toy  # noqa: F401
from tests.evaluation.stand_in import ENTRY, TOY
from visgen.evaluation import EXTRACTORS
from visgen.evaluation.protocols import PROTOCOLS
from visgen.evaluation.studies.folder import DONE, KIND, SCHEMA, StudyFolder
from visgen.evaluation.studies.running import Outcome, run_study
from visgen.evaluation.studies.study import load_study

COUNT = 6


class Run(NamedTuple):
    """A run of a study: what became of it, what was said, where it lies."""

    outcome: Outcome
    lines: list[str]
    place: Path


def run_mapping(mapping: dict[str, Any], **changes: Any) -> Run:
    """Run a study in its folder."""
    study, lines = load_study(mapping | changes), []
    with StudyFolder(study.output) as folder:
        folder.replace("study.yaml", b"title: t\n")
        return Run(run_study(study, folder, lines.append), lines, folder.folder)


@pytest.fixture
def study_mapping(models, pictures, toy, tmp_path) -> dict[str, Any]:  # noqa: F811
    """A study to be run in a folder of the test's own."""
    return mapping_of(models, pictures, tmp_path / "study")


@pytest.fixture(scope="session")
def finished(models, pictures, tmp_path_factory) -> Run:  # noqa: F811
    """The study, run once for all tests, which leave it as it is."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a FID of six images in twelve dimensions
        patch.setitem(EXTRACTORS._entries, "toy", ENTRY)
        patch.setitem(PROTOCOLS, "toy", TOY)
        return run_mapping(mapping_of(models, pictures, tmp_path_factory.mktemp("finished") / "study"))


@pytest.fixture
def rerun(finished, study_mapping):
    """Runs the study with changes in a copy of the finished folder."""
    shutil.copytree(finished.place, study_mapping["output"])
    return lambda **changes: run_mapping(study_mapping, **changes)


def mapping_of(models: Path, pictures: Path, output: Path) -> dict[str, Any]:  # noqa: F811
    """Two generators and a tokenizer on six pictures."""
    return {
        "title": "A toy <study>",
        "output": str(output),
        "reference": str(pictures),
        "protocol": "toy",
        "count": COUNT,
        "batch_size": 4,
        "samples": 2,
        "metrics": {"generate": ["fid", "kid"], "reconstruct": ["rfid", "psnr", "l1", "tokens"]},
        "generate": [{"model": [str(models / "text"), str(models / "class")]}],
        "reconstruct": [{"model": str(models / "tokenizer")}],
    }


def made_up(name: str, kind: str = "generate", model: str = "m", **more: Any) -> dict[str, Any]:
    """A finished record with everything that tables, plots and reports look at."""
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": KIND,
        "status": DONE,
        "key": "k",
        "cell": {
            "kind": kind,
            "name": name,
            "label": name,
            "model": model,
            "seed": 0,
            "parameters": {},
        },
        "asked": {"model": model},
        "finished": "2026-11-30T00:00:00+00:00",
        "subject": {"name": model, "checkpoint_sha256": "c" * 64},
        "protocol": {"name": "toy", "version": 1},
        "extractor_sha256": "toy",
        "reference": {"name": "pictures", "digest": "d" * 64, "count": 12},
        "count": 100,
        "metrics": {"fid": score(5.0, 4.0, 6.0)},
        "config": {},
        "seeds": {"seed": 0},
        "versions": {"torch": "2.14"},
        "device_name": "a processor",
        "dtype": "float32",
        "threads": 1,
        "cell_seconds": 2.0,
        "cost": {"seconds_per_image": 0.5, "nfe": 8.0, "tokens": 16.0, "decoder_steps": 0},
    }
    return record | more


def score(value: float, low: float | None = None, high: float | None = None, higher: bool = False) -> dict:
    interval = None if low is None else [low, high]
    return {"value": value, "interval": interval, "higher_is_better": higher, "count": 100}
