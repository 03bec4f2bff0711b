"""`visgen caption`: what a language model says of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visgen.cli.console import say
from visgen.cli.options import (
    Device,
    Dtype,
    Model,
    Offline,
    Seed,
    Temperature,
    TopK,
    TopP,
    given,
    given_sampling,
    open_model,
)

CAPTION_MODEL = "scenes-seed"


def caption(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", show_default=False)],
    model: Model = CAPTION_MODEL,
    question: Annotated[
        str | None, typer.Option("--question", metavar="TEXT", help="Ask this instead of for a caption.")
    ] = None,
    seed: Seed = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, metavar="N", help="Longest answer: 64.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Pictures read at once: 16, or less memory.")
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
) -> None:
    """Say what pictures show, a line each; the likeliest words unless a temperature or filter is given."""
    from visgen.data.images import read_image

    options = given(question=question, seed=seed, max_new_tokens=max_tokens, batch_size=batch_size)
    options |= given_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    pictures = [read_image(path) for path in images]
    pipe = open_model(model, "caption", dtype, device, offline)
    for path, text in zip(images, pipe.caption(pictures, **options), strict=True):
        say(f"{path}: {text}" if len(images) > 1 else text)
