"""Files of tokens into pictures again, under the names of the images that they were made of."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from visgen.data.images import read_png_metadata, to_pil, write_png
from visgen.errors import InputError, shown
from visgen.pipelines.metadata import text_chunks
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.token_folder import read_index
from visgen.pipelines.token_shards import TokenOrigin, read_header, read_shard
from visgen.pipelines.tokenize import origin_of
from visgen.tokenizers.tokens import ImageTokens

ROWS = 16  # images between two reports of progress; pixels do not depend on it


@dataclass(frozen=True)
class TokenSource:
    """A file or a folder of tokens.

    Attributes:
        shards: its files, in order.
        names: of the images, in order.
        origin: what made them.
    """

    shards: tuple[Path, ...]
    names: tuple[str, ...]
    origin: TokenOrigin


def open_tokens(path: str | os.PathLike[str]) -> TokenSource:
    """What a file or folder of tokens holds; the tokens themselves are not read.

    Raises:
        InputError: neither of them, an unfinished folder, or a file that cannot be read.
    """
    if os.path.isdir(path):
        origin, names = read_index(path)
        shards = tuple(Path(path) / name for name in names)
    else:
        shards = (Path(path),)
        origin = read_header(path).origin
    headers = [read_header(shard) for shard in shards]
    return TokenSource(shards, tuple(name for header in headers for name in header.names), origin)


def warn_of_other_weights(pipe: ReconstructPipeline, origin: TokenOrigin) -> None:
    """A `UserWarning` where other weights of the same dtype made the tokens: they may mean other images."""
    own = origin_of(pipe)
    if own.dtype == origin.dtype and own.weights != origin.weights:
        warnings.warn(
            f"the tokens were made by other weights ({origin.model}) than those of {own.model}", stacklevel=2
        )


def picture_names(names: Sequence[str]) -> list[str]:
    """PNG names of images: "cats/tom.jpg" → "cats/tom.png", or "cats/tom.jpg.png" where several would be one.

    Raises:
        InputError: a name that is there twice.
    """
    plain = [str(PurePosixPath(name).with_suffix(".png")) for name in names]
    times = Counter(plain)
    out = [f"{name}.png" if times[short] > 1 else short for name, short in zip(names, plain, strict=True)]
    if len(set(out)) < len(out):
        twice = Counter(out).most_common(1)[0][0]
        raise InputError(f"tokens of several images would become the picture {shown(twice)}; take them apart")
    return out


def detokenize_folder(
    pipe: ReconstructPipeline,
    source: TokenSource,
    folder: str | os.PathLike[str],
    *,
    seed: int | None = None,
    decoding: Any = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a PNG per image; returns how many were new. Those that are there already are left.

    Args:
        pipe: with the tokenizer that made the tokens.
        source: of `open_tokens`.
        folder: made if missing.
        seed, decoding: of decoders that start from noise, see `ReconstructPipeline`.
        on_progress: called with (images there, images in all) at the start and as they appear.

    Raises:
        InputError: tokens that this tokenizer cannot decode, or a picture of another origin in the way.
    """
    drawing = pipe.checked_drawing(seed, decoding)
    settings = pipe.settings_of(drawing)
    names = iter(zip(source.names, picture_names(source.names), strict=True))
    report, done, new = on_progress or (lambda done, total: None), 0, 0
    report(0, len(source.names))
    for shard in source.shards:
        header, tokens = read_shard(shard)
        here = [next(names) for _ in header.names]
        for rows in _batches(len(here), ROWS):
            chunks = {row: picture_chunks(here[row][0], tokens[row], settings) for row in rows}
            wanted = [r for r in rows if not _is_there(Path(folder) / here[r][1], chunks[r])]
            pixels = pipe.decode_tokens(tokens[wanted], **drawing) if wanted else []
            for row, image in zip(wanted, pixels, strict=True):
                write_png(to_pil(image[None])[0], Path(folder) / here[row][1], chunks[row])
            done, new = done + len(rows), new + len(wanted)
            report(done, len(source.names))
    return new


def _batches(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def picture_chunks(name: str, tokens: ImageTokens, settings: Mapping[str, Any]) -> dict[str, str]:
    """Text chunks of the picture of one image's tokens; `tokens` in them is a SHA-256 of the tokens."""
    digest = hashlib.sha256(repr(tokens.layout).encode())
    for kind, tensor in sorted(tokens.state_dict().items()):
        digest.update(kind.encode() + tensor.flatten().view(torch.uint8).numpy().tobytes())
    facts = {"image": name, "tokens": digest.hexdigest()}
    return text_chunks([facts], str(settings["model"] or "unnamed"), settings)


def _is_there(path: Path, chunks: Mapping[str, str]) -> bool:
    """Whether the very picture is at its place.

    Raises:
        InputError: a file that is not of this image is there.
    """
    if not path.exists():
        return False
    told = read_png_metadata(path)
    if told.get("image") != chunks["image"]:
        raise InputError(f"{path} is another picture; move it away, or choose another folder")
    return all(told.get(name) == chunks[name] for name in ("tokens", "settings"))
