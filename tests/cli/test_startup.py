"""`import visgen` and help answer at once, because they load nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "accelerate")
LIMIT = 0.5  # seconds


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def best_time(*arguments: str) -> float:
    """Processor seconds, the best of eight: what the command costs, whatever else the machine is doing."""
    times = []
    for _ in range(8):
        before = os.times()
        assert python(*arguments).returncode == 0
        after = os.times()
        times.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    return min(times)


@pytest.mark.parametrize(
    "statement", ["import visgen", "import visgen.cli.main", "import visgen; visgen.models()"]
)
def test_imports_nothing_heavy(statement: str) -> None:
    done = python("-c", f"{statement}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])")
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["--version"]], ids=" ".join)
def test_the_command_imports_nothing_heavy(arguments: list[str]) -> None:
    done = python("-X", "importtime", "-m", "visgen", *arguments)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert loaded.isdisjoint(HEAVY)


def test_help_answers_at_once() -> None:
    assert best_time("-m", "visgen", "--help") < LIMIT


def test_the_import_is_quick() -> None:
    assert best_time("-c", "import visgen") < LIMIT
