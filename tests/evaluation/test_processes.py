"""1, 2 and 4 processes draw the same images and give the same scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/evaluation/launch.py"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_the_number_of_processes_changes_nothing(models, pictures, tmp_path):
    metrics = "fid,kid,precision,recall,is,rfid,psnr,codebook,l1,l1_p90,tokens"
    options = [
        "--reference",
        pictures,
        "--protocol",
        "toy",
        "--metrics",
        metrics,
        "-n",
        11,
        "--batch-size",
        2,
    ]
    done = run("1,2,4", models / "text", *options, "-o", tmp_path / "{}.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone, *others = (json.loads((tmp_path / f"{k}.json").read_text())["results"][0] for k in (1, 2, 4))
    assert [one["processes"] for one in (alone, *others)] == [1, 2, 4]
    assert done.stdout.count("toy v1") == 3  # one table per run, not per process
    for other in others:
        for name in ("images_sha256", "reconstructions_sha256", "reference", "count", "extractor_sha256"):
            assert other[name] == alone[name], name
        for name, score in alone["metrics"].items():
            assert other["metrics"][name]["value"] == pytest.approx(score["value"], rel=1e-6), name
