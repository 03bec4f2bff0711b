"""`visgen bench tokenize`: images per second of tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from visgen.cli.bench_tables import print_table, tokenizer_table
from visgen.cli.console import note, say
from visgen.cli.options import DecodeSteps, Device, Dtype, Offline, check_device, open_model
from visgen.cli.token_options import counts


def tokenize(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL…", help="Without any, all tokenizers that ship.", show_default=False),
    ] = None,
    random_sizes: Annotated[
        list[str] | None,
        typer.Option("--random", metavar="SIZE", help="An official size, random weights: flextok-d12-d12."),
    ] = None,
    batch_size: Annotated[str, typer.Option("--batch-size", metavar="N,…", help="Images at once.")] = "1,4",
    num_tokens: Annotated[
        str | None,
        typer.Option("--num-tokens", metavar="N,…", help="Lengths decoded, where one can choose: 1,4,16,…"),
    ] = None,
    decode_steps: DecodeSteps = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs behind each median.")] = 3,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
) -> None:
    """Images per second that tokenizers encode and decode."""
    sizes, lengths = counts(batch_size, "--batch-size"), counts(num_tokens)
    if device is not None:
        check_device(device)
    from visgen.evaluation.benchmark.report import document
    from visgen.evaluation.benchmark.tokenize import TokenizeBench

    rows: list[dict[str, Any]] = []
    names: list[str] = []
    for name, pipe in _pipes(models or [], random_sizes or [], dtype, device, offline):
        pipe.set_progress_bar_config(disable=True)
        names.append(name)
        run = TokenizeBench(name, pipe, sizes or (), lengths, decode_steps, repeats, note)
        place = run.device
        rows += run.run()
    print_table(tokenizer_table(rows))
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    found = document(
        "tokenize", ",".join(names), place, dtypes, rows, repeats=repeats, random=random_sizes or []
    )
    say(json.dumps(found, ensure_ascii=False, allow_nan=False))


def _pipes(
    models: list[str], sizes: list[str], dtype: str | None, device: str | None, offline: bool
) -> Iterator[tuple[str, Any]]:
    """One at a time, so that only one is in memory."""
    if not models and not sizes:
        from visgen.evaluation.rate import shipped_tokenizers

        models = shipped_tokenizers()
    for name in models:
        yield name, open_model(name, "reconstruct", dtype, device, offline)
    for name in sizes:
        yield name, _random(name, dtype, device)


def _random(name: str, dtype: str | None, device: str | None) -> Any:
    import torch

    from visgen.evaluation.benchmark.random_tokenizers import random_tokenizer
    from visgen.pipelines.options import parse_dtype
    from visgen.pipelines.reconstruct import ReconstructPipeline

    parsed = parse_dtype(dtype)
    pipe = ReconstructPipeline(random_tokenizer(name))
    return pipe.to(device or "cpu", parsed if isinstance(parsed, torch.dtype) else torch.float32)
