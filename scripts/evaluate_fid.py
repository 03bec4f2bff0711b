"""`visgen evaluate` over several processes: the same options, the same numbers.

    accelerate launch --num_processes 4 scripts/evaluate_fid.py scenes-var -n 1000 -o result.json    # GPUs
    torchrun --nproc_per_node 2 scripts/evaluate_fid.py scenes-var -n 1000 -o result.json            # CPUs

Each process draws the images rank, rank + K, …; after gathering it is verified that every image came once.
With one CPU thread each (`OMP_NUM_THREADS=1`) the images are the same bytes whatever the number of processes.
"""

from __future__ import annotations

import typer

from visgen.cli.console import guarded
from visgen.cli.evaluate import evaluate

if __name__ == "__main__":
    typer.run(guarded(evaluate))
