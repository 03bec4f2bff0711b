"""Start `visgen` as a process of its own and kill it when something has happened."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from visgen.cli.main import main

ROOT = Path(__file__).parents[2]
PATIENCE, POLL = 900, 0.002  # seconds
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Started:
    """A `visgen` command in a process started from nothing, as a user's is; torch takes seconds to load."""

    def __init__(self, words: Sequence[object]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "visgen", *map(str, words)],
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pid = self._process.pid

    def result(self, timeout: float) -> int | None:
        """Exit code, minus the signal if one ended it; None while it runs."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


class Forked:
    """The same command forked from a server that has loaded torch once."""

    def __init__(self, words: Sequence[object]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["visgen.pipelines.text_to_image", "visgen.training.loop"])
        self._process = context.Process(target=main)
        with mock.patch.object(sys, "argv", ["visgen", *map(str, words)]):  # the child gets this one's
            self._process.start()
        self.pid: Any = self._process.pid

    def result(self, timeout: float) -> int | None:
        """Exit code, minus the signal if one ended it; None while it runs."""
        self._process.join(timeout)
        return self._process.exitcode


Start = Callable[[Sequence[object]], Started | Forked]


def finish(start: Start, words: Sequence[object]) -> None:
    """Let a command run to its end."""
    assert start(words).result(PATIENCE) == 0


def kill_when(happened: Callable[[], bool], start: Start, words: Sequence[object]) -> None:
    """Start a command and `kill -9` it as soon as something has happened, which must be before its end."""
    process, deadline = start(words), time.monotonic() + PATIENCE
    while not happened():
        assert process.result(POLL) is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline, "what it should be killed at never happened"
    os.kill(process.pid, signal.SIGKILL)
    assert process.result(PATIENCE) == -signal.SIGKILL, "the command ended before it could be killed"
