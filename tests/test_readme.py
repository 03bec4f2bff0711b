"""Every command of the README that a test can run, runs: all of them in README order, in one empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Only these two reasons excuse a block, written as a comment right above it.
EXCUSES = ("needs network", "trains for long")

BLOCK = re.compile(r"(?:<!-- (?P<excuse>[^>]*) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)```", re.DOTALL)


def blocks(language: str) -> list[str]:
    """Bodies of the blocks of a language that are not excused."""
    found = [match for match in BLOCK.finditer(README) if match["language"] == language]
    for match in found:
        assert match["excuse"] is None or match["excuse"] in EXCUSES, f"unknown excuse {match['excuse']!r}"
    return [match["body"] for match in found if match["excuse"] is None]


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("visgen ", "printf "))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "recipes").symlink_to(ROOT / "recipes")  # a reader stands in the repository
    return folder


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("command", commands(), ids=shlex.join)
def test_a_command_of_the_readme_runs(command: list[str], folder: Path) -> None:
    if command[0] == "printf":  # printf TEXT > FILE
        (folder / command[3]).write_text(command[1].replace("\\n", "\n"), encoding="utf-8")
        return
    done = run(["-m", *command], folder)
    assert done.returncode == 0, done.stderr
    for option, value in pairwise(command):
        if option == "-o":
            assert (folder / value).exists(), f"{value} was not written: {done.stdout}"


@pytest.mark.parametrize("code", blocks("python"))
def test_a_snippet_of_the_readme_runs(code: str, folder: Path) -> None:
    done = run(["-c", code], folder)
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_every_verb() -> None:
    from visgen.cli.main import app

    verbs = {command.callback.__name__ for command in app.registered_commands}
    assert verbs <= {words[1] for words in re.findall(r"^(visgen) (\w+)", README, re.MULTILINE)}


def test_pictures_and_files_that_the_readme_names_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    recipes = re.findall(r"recipes/[\w.-]+\.ya?ml", README)
    assert [name for name in links + recipes if not (ROOT / name).exists()] == []
