"""`visgen reconstruct`: what a tokenizer keeps of a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visgen.cli.console import say
from visgen.cli.options import (
    DEFAULT_MODEL,
    DecodeGuidance,
    DecodeSteps,
    Device,
    Dtype,
    Offline,
    Output,
    Progressive,
    given,
    open_model,
)
from visgen.cli.outputs import fresh, is_picture, shortened
from visgen.cli.pictures import save_pictures, strip
from visgen.cli.token_options import (
    DecodeSeed,
    MaxErrors,
    TokenCounts,
    Tokenizer,
    counts,
    errors,
    given_decoding,
)
from visgen.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from visgen.evaluation.rate import RatePoint


def reconstruct(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", show_default=False)],
    tokenizer: Tokenizer = DEFAULT_MODEL,
    num_tokens: TokenCounts = None,
    max_error: MaxErrors = None,
    seed: DecodeSeed = None,
    decode_steps: DecodeSteps = None,
    decode_guidance: DecodeGuidance = None,
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
    knobs = _knobs(counts(num_tokens), errors(max_error), tile, progressive)
    drawing = given(seed=seed) | given_decoding(decode_steps, decode_guidance)
    sources = [read_image(path) for path in images]
    pipe = open_model(tokenizer, "reconstruct", dtype, device, offline)
    for source, path in zip(sources, paths, strict=True):
        if knobs:
            _save_lengths(pipe, source, path, tokenizer, knobs, drawing)
            continue
        result = pipe(source, **given(tile=tile or None, progressive=progressive or None), **drawing)
        pictures = [strip(result.progressive[0])] if progressive else result.images
        save_pictures(pictures, result, [path], tokenizer)
        made = result.images[0]
        say(f"PSNR {psnr(made, source if tile else resize_center_crop(source, made.width)):.2f} dB")


def _knobs(
    counts: list[int] | None, errors: list[float] | None, tile: bool, progressive: bool
) -> list[dict[str, Any]]:
    """What is asked of the tokenizer, picture by picture of the strip; empty for one picture as it is."""
    if counts and errors and len(counts) > 1:
        raise InputError(
            "--num-tokens and --max-error: give a list of one of them, and one number of the other"
        )
    if (counts or errors) and (tile or progressive):
        other = "--tile" if tile else "--progressive"
        raise InputError(f"{other} does not go with --num-tokens and --max-error, which make a strip")
    if errors:
        more = {"num_tokens": counts[0]} if counts else {}
        return [{"max_error": error, **more} for error in errors]
    return [{"num_tokens": count} for count in counts or []]


def _save_lengths(
    pipe: Any, source: Image, path: Path, model: str, knobs: list[dict[str, Any]], drawing: dict[str, Any]
) -> None:
    """A strip of the original and a reconstruction for each setting, and a line for each."""
    from visgen.cli.lettering import labelled_strip
    from visgen.data.images import to_pil, write_png
    from visgen.evaluation.rate import rate_points
    from visgen.pipelines.metadata import text_chunks

    points = rate_points(pipe, source, knobs, **drawing)
    original = to_pil(pipe.tokenizer.preprocess(source))[0]
    captions = [["original"], *map(caption, points)]
    settings = pipe.settings_of(
        pipe.checked_drawing(drawing.get("seed"), drawing.get("decoding")), strip=knobs
    )
    write_png(
        labelled_strip([original, *(point.image for point in points)], captions),
        path,
        text_chunks([{}], model, settings),
    )
    say(str(path))
    for point in points:
        say(", ".join(caption(point)))


def caption(point: RatePoint) -> list[str]:
    """What stands below a reconstruction."""
    words = [f"{point.tokens} token{'' if point.tokens == 1 else 's'}"]
    if "max_error" in point.knobs:
        words.append(f"wanted L1 {point.knobs['max_error']:g}")
    return [*words, f"L1 {point.l1:.4f}", f"PSNR {point.psnr:.2f} dB"]


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
