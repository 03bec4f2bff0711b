"""`visgen edit`: make a part of a picture anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visgen.cli.options import (
    DEFAULT_MODEL,
    Count,
    Device,
    Dtype,
    Guidance,
    Model,
    Offline,
    Output,
    Seed,
    Strategy,
    given,
    given_sampling,
    given_strategy,
    open_model,
)
from visgen.cli.outputs import picture_paths
from visgen.cli.pictures import save_pictures
from visgen.errors import InputError, shown

Box = tuple[float, float, float, float]


def edit(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", show_default=False)],
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1", help="What is made anew: left, top, right, bottom, as fractions."
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="MASK.png", help="What is made anew: the white of this picture.")
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Keep the box or the white, make the rest anew.")
    ] = False,
    paste: Annotated[
        bool, typer.Option("--paste", help="Put the source's own pixels back where it was kept.")
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="What the whole picture shows afterwards.")] = None,
    label: Annotated[int | None, typer.Option(help="Class label, for class models.")] = None,
    model: Model = DEFAULT_MODEL,
    count: Count = 1,
    seed: Seed = None,
    guidance_scale: Guidance = None,
    strategy: Strategy = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    output: Output = None,
) -> None:
    """Make a part of a picture anew: visgen edit in.png --box 0,0,1,0.5 --prompt "a red circle"."""
    from visgen.data.images import read_image

    if (box is None) == (mask is None):
        raise InputError("give exactly one of --box and --mask, to say which part is made anew")
    chosen = given_sampling(guidance_scale=guidance_scale) | given_strategy(strategy)
    region = {
        "box": parse_box(box),
        "mask": mask and read_image(mask),
        "invert": invert or None,
        "paste": paste or None,
    }
    paths = picture_paths(output, f"{image.stem} edit", 1, count)
    source = read_image(image)
    pipe = open_model(model, "edit", dtype, device, offline)
    options = given(prompt=prompt, label=label, seed=seed, **region) | chosen
    result = pipe(source, num_images_per_prompt=count, **options)
    save_pictures(result.images, result, paths, model)


def parse_box(text: str | None) -> Box | None:
    """Four fractions of the picture, "0,0,1,0.5" → (0.0, 0.0, 1.0, 0.5)."""
    from visgen.pipelines.masks import check_box

    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--box {shown(text)} must be x0,y0,x1,y1 in fractions, such as 0.5,0,1,1") from None
    return check_box(numbers)
