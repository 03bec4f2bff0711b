"""`visgen bench`: how fast, as a table and as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from visgen.cli.bench_prune import prune
from visgen.cli.bench_tables import acceptance, print_table, strategy_table, table
from visgen.cli.bench_tokenize import tokenize
from visgen.cli.console import guarded, note, say
from visgen.cli.options import DEFAULT_MODEL, Device, Model, Offline, check_device, given
from visgen.errors import InputError

PROMPT = "a red circle above a blue square"
DTYPES, TOKENS, IMAGES = "float32,bfloat16", 128, 16

bench = typer.Typer(help="Measure speed: a table, then one line of JSON.", no_args_is_help=True)


def generate(
    model: Model = DEFAULT_MODEL,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="The architecture of an official model, without a download."),
    ] = False,
    label: Annotated[int | None, typer.Option("--label", help="Class that class models draw: 0.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help=f"What text models draw: {PROMPT}.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="DTYPE,…", help=f"{DTYPES}; with --strategies the model's own."),
    ] = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="N,…", help="Images at once, for the sweep.")
    ] = "1,2,4",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs behind each median.")] = 3,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Measure torch.compile of the blocks too.")
    ] = False,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="Next-token models: tokens timed, of one image.")
    ] = TOKENS,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=3, metavar="N", help="Flow steps of xAR; fewer end sooner."),
    ] = None,
    strategies: Annotated[
        str | None,
        typer.Option(
            "--strategies", metavar="all|NAME[:VALUE],…", help="Compare how next-token models decode."
        ),
    ] = None,
    num_images: Annotated[
        int, typer.Option("-n", "--num-images", min=1, help="Images timed under each strategy.")
    ] = IMAGES,
    quality_images: Annotated[
        int, typer.Option("--quality-images", min=0, help="Images judged under each strategy: scenes models.")
    ] = 0,
    positions: Annotated[
        bool, typer.Option("--positions", help="How often drafts were accepted, by position.")
    ] = False,
    device: Device = None,
    offline: Offline = False,
) -> None:
    """Seconds per image and where they go: visgen bench generate -m var-d16 --random-weights."""
    names = None if strategies is None else _names(strategies)
    _check_together(names, {"--quality-images": quality_images, "--positions": positions}, compiled)
    dtypes, sizes = None if dtype is None else _dtypes(dtype), _sizes(batch_size)
    if device is not None:
        check_device(device)
    pipe = _open(model, random_weights, device, offline)
    pipe.set_progress_bar_config(disable=True)
    told = {"weights": "random" if random_weights else "loaded"}
    subject = label if hasattr(pipe, "num_classes") else prompt
    if names is not None:
        quality = _quality(quality_images, model, pipe)
        options = {"num_images": num_images, "subject": subject, "quality": quality, "positions": positions}
        return _compare(model, pipe, names, dtypes, options, told)
    if subject is None:
        subject = 0 if hasattr(pipe, "num_classes") else PROMPT
    run = _bench(pipe, subject, dtypes or _dtypes(DTYPES), sizes, repeats, compiled, tokens, steps)
    rows = list(run.run())
    print_table(table(rows))
    _say_document(model, run.device, run.dtypes, rows, repeats=repeats, **told)


bench.command()(guarded(generate))
bench.command()(guarded(tokenize))
bench.command()(guarded(prune))


def _bench(
    pipe: Any,
    subject: int | str,
    dtypes: list[str],
    sizes: list[int],
    repeats: int,
    compiled: bool,
    tokens: int,
    steps: int | None,
) -> Any:
    """The benchmark of a model's family."""
    from visgen.evaluation.benchmark.entities import EntityBench
    from visgen.evaluation.benchmark.generate import GenerateBench
    from visgen.evaluation.benchmark.next_token import DecodeBench
    from visgen.generators.next_token import NextTokenGenerator

    if getattr(getattr(pipe, "generator", None), "continuous", False):
        if compiled:
            raise InputError("--compile: xAR is measured without compiling; leave it out")
        return EntityBench(pipe, subject, dtypes, sizes, repeats, steps, note)
    if steps is not None:
        raise InputError(
            f"--steps {steps}: this model takes no flow steps; leave it out, or use an xAR model"
        )
    if isinstance(getattr(pipe, "generator", None), NextTokenGenerator):
        return DecodeBench(pipe, subject, dtypes, sizes, repeats, compiled, tokens, note)
    return GenerateBench(pipe, subject, dtypes, sizes, repeats, compiled, note)


def _compare(
    model: str,
    pipe: Any,
    names: list[str],
    dtypes: list[str] | None,
    options: dict[str, Any],
    told: dict[str, Any],
) -> None:
    """Strategies side by side, dtype by dtype; float32 first, as converting back would not restore it."""
    from dataclasses import asdict

    import torch

    from visgen.evaluation.benchmark.images import dtype_name
    from visgen.evaluation.benchmark.strategies import StrategyBench

    run = StrategyBench(pipe, names, say=note, **options)
    rows = []
    dtypes = sorted(dtypes or [dtype_name(pipe)], key=lambda name: name != "float32")
    for name in dtypes:
        pipe.to(getattr(torch, name))
        rows += list(run.run())
    print_table(strategy_table(rows))
    if options["positions"]:
        for row in rows:
            for line in acceptance(row, getattr(pipe.generator, "positions", None)):
                say(line)
    asked = {"strategies": names, "num_images": options["num_images"], "sampling": asdict(pipe.sampling)}
    _say_document(model, run.device, dtypes, rows, **asked, **told)


def _quality(count: int, model: str, pipe: Any) -> Any:
    if not count:
        return None
    from visgen.evaluation.benchmark.quality import Quality

    return Quality(count, model, device=str(pipe.generator.device))


def _say_document(model: str, device: Any, dtypes: Sequence[str], rows: Sequence[Any], **more: Any) -> None:
    from visgen.evaluation.benchmark.report import document

    found = document("generate", model, device, dtypes, rows, **more)
    say(json.dumps(found, ensure_ascii=False, allow_nan=False))


def _names(text: str) -> list[str]:
    """Strategies as they were named, all of them valid."""
    from visgen.evaluation.benchmark.strategies import check_names

    names = [word.strip() for word in text.split(",")]
    if not all(names):
        raise InputError(f"--strategies {text!r} must be all, or names such as sjd:16,jacobi")
    check_names(names)
    return names


def _check_together(names: list[str] | None, others: dict[str, Any], compiled: bool) -> None:
    if names is not None and compiled:
        raise InputError(
            "--strategies and --compile: strategies are compared without compiling; leave one out"
        )
    wanting = [option for option, value in others.items() if value and names is None]
    if wanting:
        raise InputError(f"{wanting[0]} is for a comparison of strategies; add --strategies all")


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
