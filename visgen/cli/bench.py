"""`visgen bench`: how fast, as a table and as one line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visgen.cli.console import guarded, note, say
from visgen.cli.options import DEFAULT_MODEL, Device, Model, Offline, check_device, given
from visgen.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

PROMPT = "a red circle above a blue square"

bench = typer.Typer(help="Measure speed: a table, then one line of JSON.", no_args_is_help=True)


def generate(
    model: Model = DEFAULT_MODEL,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="The architecture of an official model, without a download."),
    ] = False,
    label: Annotated[int, typer.Option("--label", help="Class that class models draw.")] = 0,
    prompt: Annotated[str, typer.Option("--prompt", help="What text models draw.")] = PROMPT,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="DTYPE,…", help="float32, bfloat16, float16.")
    ] = "float32,bfloat16",
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="N,…", help="Images at once, for the sweep.")
    ] = "1,2,4",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs behind each median.")] = 3,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Measure torch.compile of the blocks too.")
    ] = False,
    device: Device = None,
    offline: Offline = False,
) -> None:
    """Seconds per image and where they go: visgen bench generate -m var-d16 --random-weights."""
    dtypes, sizes = _dtypes(dtype), _sizes(batch_size)
    if device is not None:
        check_device(device)
    from visgen.evaluation.benchmark.generate import GenerateBench
    from visgen.evaluation.benchmark.report import document

    pipe = _open(model, random_weights, device, offline)
    pipe.set_progress_bar_config(disable=True)
    subject = label if hasattr(pipe, "num_classes") else prompt
    run = GenerateBench(pipe, subject, dtypes, sizes, repeats, compiled, note)
    rows = list(run.run())
    _print(rows)
    weights = "random" if random_weights else "loaded"
    found = document("generate", model, run.device, run.dtypes, rows, weights=weights, repeats=repeats)
    say(json.dumps(found, ensure_ascii=False, allow_nan=False))


bench.command()(guarded(generate))


def _dtypes(text: str) -> list[str]:
    import torch

    from visgen.pipelines.options import parse_dtype

    names = [name.strip() for name in text.split(",")]
    parsed = [parse_dtype(name) for name in names]
    if not all(isinstance(one, torch.dtype) for one in parsed):
        raise InputError(f"--dtype {text!r} must name dtypes, such as float32,bfloat16")
    return list(dict.fromkeys(str(one).removeprefix("torch.") for one in parsed))


def _sizes(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= 4096 for word in words):
        raise InputError(f"--batch-size {text!r} must be numbers from 1 to 4096, such as 1,2,4")
    return [int(word) for word in words]


def _open(model: str, random_weights: bool, device: str | None, offline: bool) -> Any:
    """The model for its own task, or its architecture."""
    import visgen

    if not random_weights:
        return visgen.load(model, **given(device=device, local_files_only=offline or None))
    from visgen.pipelines.random_weights import random_pipeline

    pipe = random_pipeline(model)
    return pipe if device is None else pipe.to(device)


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console

    from visgen.cli.models import FILE_WIDTH

    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table(rows))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line per row, a rule between dtypes."""
    from rich import box
    from rich.table import Table

    columns = ("what", "dtype", "seconds", "images/s", "GFLOP/s", "of matmul", "memory", "more")
    out = Table(*columns, box=box.SIMPLE)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        last = following is not None and following["dtype"] != row["dtype"]
        out.add_row(*_cells(row), end_section=last)
    return out


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    from visgen.cli.models import size

    memory = row.get("peak_memory_bytes")
    return (
        row["name"],
        row["dtype"],
        _number(row.get("seconds"), ".4f"),
        _number(row.get("images_per_second"), ".3g"),
        _number(row.get("gflops_per_second"), ".0f"),
        _number(row.get("fraction_of_matmul"), ".0%"),
        "" if memory is None else size(memory),
        _more(row),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _more(row: Mapping[str, Any]) -> str:
    if "psnr_db" in row:
        near = "equal image" if row["psnr_db"] is None else f"image {row['psnr_db']:.1f} dB"
        return f"{row['speedup']:.2f}× (matmul {row['matmul_speedup']:.2f}×), {near}"
    if "largest_logit_difference" in row:
        difference, first = row["largest_logit_difference"], row["first_seconds"]
        return f"first {first:.1f} s, logits within {difference:.1e}"
    return ""
