"""`visgen generate`: pictures of prompts or of class labels."""

from __future__ import annotations

from typing import Annotated

import typer

from visgen.cli.options import (
    DEFAULT_MODEL,
    Count,
    Device,
    Dtype,
    Guidance,
    Labels,
    Model,
    Negative,
    Offline,
    Output,
    Progressive,
    Seed,
    Temperature,
    TopK,
    TopP,
    given,
    open_model,
)
from visgen.cli.outputs import picture_paths
from visgen.cli.pictures import Steps, save_pictures
from visgen.errors import InputError


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT…", help="What to draw.", show_default=False)
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
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    output: Output = None,
    grid: Annotated[bool, typer.Option("--grid", help="One picture with all images side by side.")] = False,
    progressive: Progressive = False,
) -> None:
    """Draw what prompts say, or classes: visgen generate "a red circle above a blue square"."""
    _check_rows(prompts, labels, negative)
    rows: list = prompts or labels or []
    name = " ".join(["class", *map(str, labels)]) if labels else str(rows[0])
    paths = picture_paths(output, name, len(rows), count, grid)
    pipe = open_model(model, "class-to-image" if labels else "text-to-image", dtype, device, offline)
    steps = Steps() if progressive else None
    result = pipe(
        rows,
        num_images_per_prompt=count,
        callback_on_step_end=steps,
        **given(negative_prompt=negative, seed=seed, guidance_scale=guidance_scale),
        **given(top_k=top_k, top_p=top_p, temperature=temperature),
    )
    images = steps.strips(len(result)) if steps else result.images
    columns = 1 if progressive else count if len(rows) > 1 and count > 1 else None
    save_pictures(images, result, paths, model, columns)


def _check_rows(prompts: list[str] | None, labels: list[int] | None, negative: str | None) -> None:
    if prompts and labels:
        raise InputError(f"prompt {prompts[0]!r} and --label {labels[0]}: give prompts or labels, not both")
    if not prompts and not labels:
        raise InputError('nothing to draw: give a prompt ("a red circle"), or --label for a class model')
    if labels and negative is not None:
        raise InputError(f"--negative {negative!r} is for prompts; classes have none")
