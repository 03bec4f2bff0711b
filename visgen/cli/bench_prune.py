"""`visgen bench prune`: what choosing vision tokens takes, and what it saves."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from visgen.cli.bench_tables import print_table, prune_table
from visgen.cli.console import note, say
from visgen.cli.options import Device, Dtype, check_device
from visgen.cli.token_options import counts
from visgen.errors import InputError

PRUNERS = "random:0.1,uniform:0.1,cls:0.1,fastv:0.1,divprune:0.1"


def prune(
    pruners: Annotated[
        str, typer.Option("--pruners", metavar="METHOD[:VALUE],…", help="What to compare; a+b is a chain.")
    ] = PRUNERS,
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="N,…", help="Image tokens to choose among.")
    ] = "576,2880,10000",
    size: Annotated[
        str, typer.Option("--size", help="Of the model whose prefill is timed: llava-1.5-7b, -13b, or tiny.")
    ] = "llava-1.5-7b",
    depth: Annotated[int, typer.Option("--depth", min=2, help="Its layers, at most.")] = 4,
    prefill: Annotated[
        bool, typer.Option("--prefill/--no-prefill", help="Whether a prefill is timed too.")
    ] = True,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs behind each median.")] = 3,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Milliseconds of choosing, and seconds of a prefill: visgen bench prune --pruners divprune:0.1."""
    numbers = counts(tokens, "--tokens") or ()
    if device is not None:
        check_device(device)
    import torch

    from visgen.evaluation.benchmark.prune import PrefillBench, SelectionBench
    from visgen.evaluation.benchmark.random_llava import random_llava
    from visgen.evaluation.benchmark.report import document

    names = _names(pruners)
    place, kind = torch.device(device or "cpu"), _dtype(dtype)
    rows: list[dict[str, Any]] = list(SelectionBench(names, numbers, place, repeats=repeats, say=note).run())
    if prefill:
        model = random_llava(size, depth, place, kind)
        rows += PrefillBench(model, names, repeats, say=note).run()
    print_table(prune_table(rows))
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    found = document("prune", size, place, dtypes, rows, pruners=names, depth=depth, repeats=repeats)
    say(json.dumps(found, ensure_ascii=False, allow_nan=False))


def _names(text: str) -> list[str]:
    """Pruners as they were named, all of them valid."""
    from visgen.pruning.making import parse_pruner

    names = [word.strip() for word in text.split(",")]
    if not all(names):
        raise InputError(f"--pruners {text!r} must be methods such as divprune:0.1,fastv:0.5")
    for name in names:
        parse_pruner(name)
    return names


def _dtype(name: str | None) -> Any:
    import torch

    from visgen.pipelines.options import parse_dtype

    parsed = parse_dtype(name)
    return parsed if isinstance(parsed, torch.dtype) else torch.float32
