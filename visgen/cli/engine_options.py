"""Options of verbs whose work may be shared out: who does it, and in what portions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from visgen.cli.console import settings
from visgen.errors import InputError, shown

if TYPE_CHECKING:
    from visgen.distributed.engines import Engine

EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="local|ray",
        help="Who works: this process, or Ray's actors (here, or where RAY_ADDRESS says).",
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, metavar="N", help="Actors of Ray, each with the model; 1.")
]
ShardSize = Annotated[
    int | None,
    typer.Option("--shard-size", min=1, metavar="N", help="Images of a .tar, with --engine; 256."),
]


def make_engine(name: str | None, workers: int | None, device: str | None) -> Engine | None:
    """The engine that the options name; None when none is named. `visgen --threads N` is of each worker, 1
    unless given, so that the same images come out on machines of other sizes.

    Raises:
        InputError: options that do not fit each other.
    """
    from visgen.distributed.engines import Engine

    if name is None:
        if workers is not None:
            raise InputError(f"--workers {workers} needs --engine ray")
        return None
    if name == "local" and workers not in (None, 1):
        raise InputError(f"--workers {workers}: --engine local is one process; use --engine ray")
    on_gpu = name == "ray" and device is not None and device.startswith("cuda")
    if on_gpu and device != "cuda":
        raise InputError(
            f"--device {shown(device)}: Ray gives each actor a GPU of its own; use --device cuda"
        )
    return Engine(name, workers or 1, settings.threads or 1, 1.0 if on_gpu else 0.0)
