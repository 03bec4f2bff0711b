"""`scripts/evaluate_fid.py` under the toy protocol in K processes, as `accelerate launch` would start them.

    python tests/evaluation/launch.py COUNTS OPTIONS…        # COUNTS such as 1,2,4

The processes are forked from one that has imported everything, because importing costs more than evaluating.
What process 0 of K writes as `-o {}.json` goes into K.json.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from pathlib import Path

import torch
import torch_fidelity.metric_kid
import torch_fidelity.metric_prc  # noqa: F401
from stand_in import install

import visgen.evaluation.run  # noqa: F401

SCRIPT = Path(__file__).parents[2] / "scripts/evaluate_fid.py"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def process(rank, count, port, options):
    """Run the script as process `rank` of `count`; its exit code."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if count > 1:
        os.environ.update({name: str(value) for name, value in (ranks | place).items()})
    sys.argv = [str(SCRIPT), *(option.format(count) for option in options)]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


def launch(count, options):
    """Fork `count` processes; the sum of their exit codes."""
    port, children = free_port(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = process(rank, count, port, options)
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(child)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    torch.set_num_threads(1)
    install()
    sys.exit(sum(launch(int(count), sys.argv[2:]) for count in sys.argv[1].split(",")))
