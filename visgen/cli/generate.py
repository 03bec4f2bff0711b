"""`visgen generate`: pictures of prompts or of class labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visgen.cli.console import say
from visgen.cli.engine_options import EngineName, ShardSize, Workers, make_engine
from visgen.cli.options import (
    DEFAULT_MODEL,
    Count,
    DecodeGuidance,
    DecodeSteps,
    Device,
    Dtype,
    Guidance,
    InferenceSteps,
    Labels,
    Model,
    Negative,
    NumTokens,
    Offline,
    Output,
    Progressive,
    Seed,
    Solver,
    Strategy,
    Temperature,
    TopK,
    TopP,
    check_device,
    given,
    given_flow,
    given_length,
    given_sampling,
    given_strategy,
    open_model,
)
from visgen.cli.outputs import is_picture, picture_paths
from visgen.cli.pictures import Steps, save_pictures
from visgen.cli.progress import resumable_bar
from visgen.errors import InputError, shown

if TYPE_CHECKING:
    from visgen.distributed.engines import Engine


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT…", help="What to draw.", show_default=False)
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="A .txt or .jsonl, a prompt per line, drawn into the folder -o; goes on where it stopped.",
        ),
    ] = None,
    model: Model = DEFAULT_MODEL,
    count: Count = 1,
    labels: Labels = None,
    negative: Negative = None,
    seed: Seed = None,
    guidance_scale: Guidance = None,
    top_k: TopK = None,
    top_p: TopP = None,
    temperature: Temperature = None,
    steps: InferenceSteps = None,
    solver: Solver = None,
    strategy: Strategy = None,
    num_tokens: NumTokens = None,
    decode_steps: DecodeSteps = None,
    decode_guidance: DecodeGuidance = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    output: Output = None,
    grid: Annotated[bool, typer.Option("--grid", help="One picture with all images side by side.")] = False,
    progressive: Progressive = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images computed at once: 16, or less memory.")
    ] = None,
    engine: EngineName = None,
    workers: Workers = None,
    shard_size: ShardSize = None,
) -> None:
    """Draw what prompts say, or classes: visgen generate "a red circle above a blue square"."""
    sampling = {"guidance_scale": guidance_scale, "top_k": top_k, "top_p": top_p, "temperature": temperature}
    options = given(negative_prompt=negative, seed=seed, batch_size=batch_size) | given_sampling(**sampling)
    options |= given_flow(steps, solver)
    options |= given_strategy(strategy) | given_length(num_tokens, decode_steps, decode_guidance)
    if prompts_file is not None:
        others = {"a prompt": prompts, "--label": labels, "--grid": grid, "--progressive": progressive}
        folder = _batch_folder(output, [name for name, value in others.items() if value])
        loading = {"dtype": dtype, "device": device, "offline": offline}
        options |= {"num_images": count}
        if (place := make_engine(engine, workers, device)) is not None:
            options |= loading | given(shard_size=shard_size)
            return _draw_shards(prompts_file, folder, model, place, **options)
        _check_no_engine(None, None, shard_size)
        return _draw_file(prompts_file, folder, model, loading, **options)
    _check_no_engine(engine, workers, shard_size)
    _check_rows(prompts, labels, negative)
    rows: list = prompts or labels or []
    name = " ".join(["class", *map(str, labels)]) if labels else str(rows[0])
    paths = picture_paths(output, name, len(rows), count, grid)
    pipe = open_model(model, "class-to-image" if labels else "text-to-image", dtype, device, offline)
    seen = Steps() if progressive else None
    result = pipe(
        rows,
        num_images_per_prompt=count,
        callback_on_step_end=seen,
        **options,
    )
    images = seen.strips(len(result)) if seen else result.images
    columns = 1 if progressive else count if len(rows) > 1 and count > 1 else None
    save_pictures(images, result, paths, model, columns)


def _check_rows(prompts: list[str] | None, labels: list[int] | None, negative: str | None) -> None:
    if prompts and labels:
        raise InputError(f"prompt {prompts[0]!r} and --label {labels[0]}: give prompts or labels, not both")
    if not prompts and not labels:
        raise InputError('nothing to draw: give a prompt ("a red circle"), or --label for a class model')
    if labels and negative is not None:
        raise InputError(f"--negative {negative!r} is for prompts; classes have none")


def _check_no_engine(engine: str | None, workers: int | None, shard_size: int | None) -> None:
    if engine is not None or workers is not None:
        raise InputError("--engine and --workers are for a file of prompts: --prompts FILE -o DIR")
    if shard_size is not None:
        raise InputError(f"--shard-size {shard_size} needs --engine local or --engine ray")


def _batch_folder(output: Path | None, others: list[str]) -> Path:
    if others:
        raise InputError(f"--prompts and {others[0]}: a file of prompts is drawn alone, one picture each")
    if output is None or is_picture(output):
        raise InputError(
            f"--prompts needs a folder: -o DIR{'' if output is None else f', not {shown(str(output))}'}"
        )
    return output


def _draw_file(prompts: Path, folder: Path, model: str, loading: dict[str, Any], **options: Any) -> None:
    """Draw the rows of a file into a folder, with a bar of its own instead of one per batch."""
    from visgen.pipelines.folder import generate_folder
    from visgen.pipelines.rows import read_rows

    rows = read_rows(prompts)
    pipe = open_model(model, "class-to-image" if rows[0].kind == "label" else "text-to-image", **loading)
    pipe.set_progress_bar_config(disable=True)

    with resumable_bar(folder) as show:
        result = generate_folder(pipe, rows, folder, on_progress=show, **options)
    say(f"{folder}: {result.total} images, {result.made} of them new, seed {result.seed}")


def _draw_shards(prompts: Path, folder: Path, model: str, engine: Engine, **options: Any) -> None:
    """Draw the rows of a file into WebDataset shards."""
    from visgen.distributed.generation import generate_shards
    from visgen.pipelines.rows import read_rows

    rows = read_rows(prompts)
    if options["device"] is not None and engine.name == "local":
        check_device(options["device"])
    with resumable_bar(folder) as show:
        result = generate_shards(model, rows, folder, engine=engine, on_progress=show, **options)
    made = f"{result.total} images in {result.shards} shards, {result.made} of them new"
    say(f"{folder}: {made}, seed {result.seed}")
