"""Workers without a model: they tell the task back, kill their process once, or refuse."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from visgen.errors import InputError


def make_echo():
    return echo


def echo(task):
    """A task may ask for `kill`: a file that is not there until the process has been killed for it."""
    if "kill" in task and not Path(task["kill"]).exists():
        Path(task["kill"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "refuse" in task:
        raise InputError(task["refuse"])
    return json.dumps(task).encode() + b"\0"


def make_nothing():
    raise InputError("there is no worker")
