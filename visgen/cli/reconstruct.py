"""`visgen reconstruct`: what a tokenizer keeps of a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visgen.cli.console import say
from visgen.cli.options import (
    DEFAULT_MODEL,
    Device,
    Dtype,
    Model,
    Offline,
    Output,
    Progressive,
    given,
    open_model,
)
from visgen.cli.outputs import fresh, is_picture, shortened
from visgen.cli.pictures import save_pictures, strip
from visgen.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


def reconstruct(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", show_default=False)],
    model: Model = DEFAULT_MODEL,
    tile: Annotated[
        bool, typer.Option("--tile", help="The whole picture tile by tile, not its centre.")
    ] = False,
    progressive: Progressive = False,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
    output: Output = None,
) -> None:
    """Turn pictures into tokens and back, and print the PSNR of what comes back."""
    from visgen.data.images import read_image, resize_center_crop

    paths = reconstruction_paths(output, images)
    sources = [read_image(path) for path in images]
    pipe = open_model(model, "reconstruct", dtype, device, offline)
    for source, path in zip(sources, paths, strict=True):
        result = pipe(source, **given(tile=tile or None, progressive=progressive or None))
        pictures = [strip(result.progressive[0])] if progressive else result.images
        save_pictures(pictures, result, [path], model)
        made = result.images[0]
        say(f"PSNR {psnr(made, source if tile else resize_center_crop(source, made.width)):.2f} dB")


def reconstruction_paths(output: Path | None, images: list[Path]) -> list[Path]:
    """One path per image, named after it.

    Raises:
        InputError: a .png for several images.
    """
    if output is None:
        return [fresh(Path(f"{shortened(image.stem)}-reconstruction.png")) for image in images]
    if not is_picture(output):
        return [output / f"{row:06d}_{shortened(image.stem)}.png" for row, image in enumerate(images)]
    if len(images) > 1:
        raise InputError(f"-o {output} is one picture, but {len(images)} are made; give a folder")
    return [output]


def psnr(image: Image, reference: Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures of one size, in dB; infinite when they are equal."""
    import numpy as np

    error = np.asarray(image, np.float64) - np.asarray(reference, np.float64)
    mean_square = float(np.mean(error**2))
    return 10 * math.log10(255**2 / mean_square) if mean_square else math.inf
