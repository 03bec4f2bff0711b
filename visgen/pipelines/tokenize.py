"""Images into files of tokens: one image, or a folder of them, in shards; a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from visgen.data.images import read_image
from visgen.data.listing import list_images
from visgen.pipelines.batching import device_of, micro_batches, wake
from visgen.pipelines.fingerprint import add_tensors
from visgen.pipelines.options import positive
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.token_folder import TokenFolder, read_index, shard_name
from visgen.pipelines.token_shards import TokenOrigin, read_shard
from visgen.tokenizers.tokens import ImageTokens


@dataclass(frozen=True)
class TokenizeResult:
    """What a run left.

    Attributes:
        folder: where.
        total: images whose tokens are there now.
        made: those that this run encoded.
        seconds: that encoding took, reading the images included.
        fewest, most, mean: number of tokens of an image.
        bits: that the ids of an image hold at most, on average; None for continuous tokens.
    """

    folder: Path
    total: int
    made: int
    seconds: float
    fewest: int
    most: int
    mean: float
    bits: float | None


def tokenize_image(
    pipe: ReconstructPipeline, image: Any, *, num_tokens: int | None = None, max_error: float | None = None
) -> ImageTokens:
    """Tokens of one image, B = 1, on the CPU.

    Args:
        pipe: `visgen.load(name, task="reconstruct")`.
        image: a Pillow image, an array or a tensor of any size.
        num_tokens, max_error: knobs, see `ReconstructPipeline`.
    """
    return pipe.encode_images(pipe.tokenizer.preprocess(image), num_tokens, max_error)


def tokenize_folder(
    pipe: ReconstructPipeline,
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    num_tokens: int | None = None,
    max_error: float | None = None,
    batch_size: int = 16,
    shard_size: int = 512,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenizeResult:
    """Write the tokens of all images below a folder as shards and an index; memory stays flat.

    The same call again makes the shards that are missing, or whose list of images has changed, and leaves the
    others; an image that changed under its name is not noticed. On a CPU images are encoded one by one, so
    that tokens do not depend on the batch; elsewhere in batches of one fixed shape.

    Args:
        pipe: `visgen.load(name, task="reconstruct")`.
        source: the images, see `visgen.data.listing.list_images`.
        folder: made if missing.
        num_tokens, max_error: knobs, see `ReconstructPipeline`.
        batch_size: images read, and elsewhere than on a CPU encoded, at once.
        shard_size: images of a shard.
        on_progress: called with (images there, images in all) at the start and as they appear.

    Raises:
        InputError: no images, an unreadable one, a bad argument, or a folder that holds something else.
    """
    size, per_shard = positive("batch_size", batch_size), positive("shard_size", shard_size)
    knobs = pipe.checked_knobs(num_tokens, max_error)
    files = list_images(Path(source))
    rows = 1 if device_of(pipe.tokenizer).type == "cpu" else size
    record = {"source": str(Path(source).resolve()), "shard_size": per_shard, "batch_size": rows}
    origin = origin_of(pipe, **knobs)
    shards = [files[start : start + per_shard] for start in range(0, len(files), per_shard)]
    with TokenFolder(folder) as place:
        place.claim(origin, record)
        missing = [number for number, names in enumerate(shards) if not place.has(number, names, origin)]
        start, made = time.perf_counter(), sum(len(shards[number]) for number in missing)
        report = _Report(on_progress, len(files) - made, len(files))
        for number in missing:
            tokens = []
            for batch in _cut(shards[number], size):
                pictures = [read_image(Path(source) / name) for name in batch]
                tokens.append(encode_pictures(pictures, pipe, knobs, rows, report.add))
            place.write(number, shards[number], ImageTokens.cat(tokens), origin)
        return finished(place, len(shards), pipe.tokenizer, made, time.perf_counter() - start)


class _Report:
    """Counts images up, and tells."""

    def __init__(self, tell: Callable[[int, int], None] | None, done: int, total: int) -> None:
        self.tell, self.done, self.total = tell, done, total
        self.add(0)

    def add(self, count: int) -> None:
        self.done += count
        if self.tell is not None:
            self.tell(self.done, self.total)


def _cut(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (names[start : start + size] for start in range(0, len(names), size))


@torch.no_grad()
def encode_pictures(
    pictures: Sequence[Image.Image],
    pipe: ReconstructPipeline,
    knobs: Mapping[str, Any],
    rows: int,
    tell: Callable[[int], None] = lambda count: None,
) -> ImageTokens:
    """Tokens of some pictures of any size, on the CPU.

    Args:
        pictures: RGB.
        pipe: with the tokenizer.
        knobs: as `pipe.checked_knobs` gives them.
        rows: pictures encoded at once; the last ones are padded to that.
        tell: called with the number of pictures after each of those parts.
    """
    tokenizer = pipe.tokenizer
    wake(tokenizer)
    parts = []
    for real, index in micro_batches(len(pictures), rows, fixed=True):
        pixels = tokenizer.preprocess([pictures[row] for row in real])
        tokens = tokenizer.encode(pixels[[row - real.start for row in index]], **knobs)
        parts.append(tokens[: len(real)].to("cpu"))
        tell(len(real))
    return ImageTokens.cat(parts)


def finished(place: TokenFolder, shards: int, tokenizer: Any, made: int, seconds: float) -> TokenizeResult:
    """Write the index of a folder whose shards are all there, and tell what it holds.

    Args:
        place: the folder.
        shards: number of them.
        tokenizer: what made the tokens.
        made, seconds: of this run.
    """
    headers = place.finish(shards)
    bits = bits_per_token(tokenizer, read_shard(place.folder / shard_name(0))[1])
    lengths = [length for header in headers for length in header.lengths]
    mean = sum(lengths) / len(lengths)
    told = (min(lengths), max(lengths), mean, None if bits is None else bits * mean)
    return TokenizeResult(place.folder, len(lengths), made, seconds, *told)


def read_token_shards(folder: str | os.PathLike[str]) -> Iterator[tuple[str, ImageTokens]]:
    """(name of the image, its tokens, B = 1) of a folder that `tokenize_folder` filled, shard by shard.

    Raises:
        InputError: no such folder, an unfinished one, or a shard that cannot be read.
    """
    for name in read_index(folder)[1]:
        header, tokens = read_shard(Path(folder) / name)
        for row, image in enumerate(header.names):
            yield image, tokens[row]


def origin_of(pipe: ReconstructPipeline, **knobs: Any) -> TokenOrigin:
    """What tokens of a pipeline are made by."""
    dtype = str(pipe.tokenizer.dtype).removeprefix("torch.")
    return TokenOrigin(str(pipe.name_or_path or "unnamed"), tokenizer_digest(pipe.tokenizer), dtype, **knobs)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 (hex) over a tokenizer's configuration and weights as loaded; about a second per GB."""
    config = tokenizer.config
    values = dict(vars(config) if is_dataclass(config) else config)
    told = {name: value for name, value in values.items() if not name.startswith("_")}  # paths, versions
    about = [type(tokenizer).__name__, told]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    add_tensors(digest, tokenizer)
    return digest.hexdigest()


def bits_per_token(tokenizer: Any, tokens: ImageTokens) -> float | None:
    """Bits that the ids of one position hold at most; None for continuous tokens and unknown codebooks."""
    size = _codebook_size(tokenizer)
    if tokens.ids is None or size is None:
        return None
    return math.log2(size) * (tokens.ids.shape[-1] if tokens.ids.ndim == 3 else 1)


def _codebook_size(tokenizer: Any) -> int | None:
    """Ids that one code can be, wherever a tokenizer says it."""
    for source in (tokenizer.config, tokenizer.quantizer):
        if (size := getattr(source, "codebook_size", None)) is not None:
            return size
    if hasattr(type(tokenizer), "codebook_size"):
        return tokenizer.codebook_size
    return None if tokenizer.codebook is None else len(tokenizer.codebook)
