"""Error against number of tokens: what a tokenizer makes of one image at several lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from visgen.data.images import to_pil
from visgen.pipelines import TASKS_OF
from visgen.pipelines.model_index import read_index
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.tokenize import bits_per_token
from visgen.shipped import assets_folder, shipped_models

# Errors asked of tokenizers that choose their length, where their configuration names none
ERRORS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.14, 0.2)
MOST_ERRORS = 12

Knobs = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class RatePoint:
    """One reconstruction.

    Attributes:
        knobs: what was asked for: {"num_tokens": 4}, {"max_error": 0.05} or nothing.
        tokens: that it took.
        bits: that their ids hold at most; None for continuous tokens.
        l1: mean absolute error of [0, 1] pixels.
        psnr: in dB; infinite for equal pixels.
        image: the reconstruction.
    """

    knobs: Knobs
    tokens: int
    bits: float | None
    l1: float
    psnr: float
    image: Image = field(repr=False)


def rate_points(
    pipe: ReconstructPipeline,
    image: Any,
    knobs: Sequence[Knobs] | None = None,
    *,
    seed: int | None = None,
    decoding: Any = None,
) -> list[RatePoint]:
    """A point for each setting of the knobs; errors are against the image as the tokenizer sees it.

    Args:
        pipe: `visgen.load(name, task="reconstruct")`.
        image: a Pillow image, an array or a tensor of any size.
        knobs: keywords of `encode_images`; None = `usual_knobs`.
        seed, decoding: as for the pipeline.

    Raises:
        InputError: a knob that the tokenizer lacks, or `seed` or `decoding` where nothing is drawn.
    """
    wanted = usual_knobs(pipe.tokenizer) if knobs is None else knobs
    for one in wanted:
        pipe.checked_knobs(one.get("num_tokens"), one.get("max_error"))
    drawing = pipe.checked_drawing(seed, decoding)
    pixels = pipe.tokenizer.preprocess(image)
    return [_point(pipe, pixels, one, drawing) for one in pipe.progress_bar(wanted)]


def _point(pipe: ReconstructPipeline, pixels: Tensor, knobs: Knobs, drawing: Knobs) -> RatePoint:
    tokens = pipe.encode_images(pixels, **knobs)
    made = pipe.decode_tokens(tokens, **drawing)
    count, bits = int(tokens.lengths[0]), bits_per_token(pipe.tokenizer, tokens)
    l1, psnr = pixel_errors(made, pixels)
    return RatePoint(knobs, count, None if bits is None else count * bits, l1, psnr, to_pil(made)[0])


def pixel_errors(made: Tensor, real: Tensor) -> tuple[float, float]:
    """(mean absolute error, PSNR in dB) of [0, 1] pixels, from (1, 3, H, W) in [-1, 1]; `made` is clamped.

    Where sizes differ the real image is resized to the other's (bicubic, anti-aliased).
    """
    real = real.to("cpu", torch.float32)
    if real.shape != made.shape:
        real = F.interpolate(real, size=made.shape[-2:], mode="bicubic", antialias=True).clamp(-1, 1)
    difference = (made.float().clamp(-1, 1) - real) / 2
    square = float(difference.square().mean())
    return float(difference.abs().mean()), -10 * math.log10(square) if square else math.inf


def usual_knobs(tokenizer: Any) -> list[Knobs]:
    """What shows a tokenizer's range: the errors it knows, or powers of two up to its length, or nothing."""
    if "max_error" in tokenizer.knobs:
        config = tokenizer.config
        errors = getattr(config, "bin_errors", None) or getattr(config, "error_bins", None) or ERRORS
        step = math.ceil(len(errors) / MOST_ERRORS)
        return [{"max_error": error} for error in errors[::step]]
    if "num_tokens" in tokenizer.knobs:
        return [{"num_tokens": count} for count in doubling(1, tokenizer.layout.length)]
    return [{}]


def doubling(first: int, last: int) -> list[int]:
    """first, 2·first, 4·first, … below `last`, and `last`."""
    counts = []
    while first < last:
        counts.append(first)
        first *= 2
    return [*counts, last]


def shipped_tokenizers() -> list[str]:
    """Shipped models that reconstruct, one per tokenizer, sorted; those that share another's are left out."""
    found: dict[str, str] = {}
    for name in shipped_models():
        index = read_index(assets_folder() / name)
        tokenizer = index.components.get("tokenizer")
        if tokenizer is not None and "reconstruct" in TASKS_OF.get(index.class_name, ()):
            own = tokenizer.shared is None
            place = f"{name}/tokenizer" if tokenizer.shared is None else tokenizer.shared
            found[place] = name if own else found.get(place, name)
    return sorted(found.values())
