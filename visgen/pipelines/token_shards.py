"""Files of tokens: a shard holds the tokens of some images and says whose they are and what made them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import visgen
from visgen.errors import InputError, shown
from visgen.nn.model import read_safetensors
from visgen.schema import read
from visgen.tokenizers.tokens import ImageTokens

KIND, SCHEMA = "visgen-tokens", 1


@dataclass(frozen=True)
class TokenOrigin:
    """What made some tokens.

    Attributes:
        model: name that the tokenizer was loaded by.
        weights: SHA-256 (hex) over its configuration and weights as loaded.
        dtype: of the weights, "float32".
        num_tokens, max_error: what was asked of it; None = its own.
    """

    model: str
    weights: str
    dtype: str
    num_tokens: int | None = None
    max_error: float | None = None


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself, read without its tensors.

    Attributes:
        names: of the images, one per row: relative paths with forward slashes.
        lengths: number of present tokens of each.
        origin: what made them.
        captions, labels: of the images, one per row, where the images came with them; else None.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    origin: TokenOrigin
    captions: tuple[str, ...] | None = None
    labels: tuple[int, ...] | None = None


def shard_bytes(
    names: list[str],
    tokens: ImageTokens,
    origin: TokenOrigin,
    captions: list[str] | None = None,
    labels: list[int] | None = None,
) -> bytes:
    """The file of some images' tokens: safetensors with the tensors of `ImageTokens.state_dict` and a header.

    Args:
        names: of the images, one per row.
        tokens: of the images.
        origin: what made them.
        captions, labels: of the images, one per row, or None.
    """
    about = {"names": names, "lengths": tokens.lengths.tolist(), "origin": asdict(origin)}
    about |= {} if captions is None else {"captions": captions}
    about |= {} if labels is None else {"labels": labels}
    told = json.dumps({"schema": SCHEMA, "visgen": visgen.__version__, **about})
    return save(tokens.to("cpu").state_dict(), {KIND: told})  # one key: safetensors shuffles several


def read_header(path: str | os.PathLike[str]) -> ShardHeader:
    """The header of a file that `shard_bytes` made; its tensors are not read.

    Raises:
        InputError: no such file, a broken one, none of ours, another schema, or names that lead elsewhere.
    """
    where = shown(os.fspath(path))
    if not os.path.isfile(path):
        raise InputError(f"tokens {where} are no regular file; give one that visgen tokenize wrote")
    try:
        with safe_open(os.fspath(path), "pt") as file:
            told = (file.metadata() or {}).get(KIND)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"tokens {where} cannot be read as safetensors ({error})") from error
    if told is None:
        raise InputError(f"{where} holds no tokens with a header; give a file that visgen tokenize wrote")
    try:
        return _header(json.loads(told))
    except (AttributeError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"tokens {where} have a header that cannot be read ({error})") from error


def _header(told: Mapping[str, Any]) -> ShardHeader:
    if told.get("schema") != SCHEMA:
        raise InputError(f"schema {shown(told.get('schema'))}: this version reads schema {SCHEMA}")
    needed, extra = ("names", "lengths", "origin"), ("captions", "labels")
    header = read(ShardHeader, {n: told[n] for n in needed} | {n: told[n] for n in extra if n in told})
    if len(header.names) != len(header.lengths) or not header.names:
        raise InputError(f"{len(header.names)} names for {len(header.lengths)} images")
    for name in extra:
        if (values := getattr(header, name)) is not None and len(values) != len(header.names):
            raise InputError(f"{len(values)} {name} for {len(header.names)} images")
    for name in header.names:
        check_name(name)
    return header


def check_name(name: str) -> None:
    """Raise `InputError` for an image's name that is no plain relative path: it decides where files go."""
    paths = PurePosixPath(name), PurePath(name)  # the second as this system reads it
    leads_away = any(path.anchor or ".." in path.parts for path in paths)
    if leads_away or "\0" in name or not paths[0].name or str(paths[0]) != name:
        raise InputError(f"name {shown(name)} is no relative path of an image")


def read_shard(path: str | os.PathLike[str]) -> tuple[ShardHeader, ImageTokens]:
    """Header and tokens, on the CPU.

    Raises:
        InputError: as `read_header`, or tensors that are no tokens of as many images.
    """
    header = read_header(path)
    tokens = ImageTokens.from_state_dict(read_safetensors(Path(path)))
    if tokens.lengths.tolist() != list(header.lengths):
        raise InputError(f"tokens {shown(os.fspath(path))}: its header speaks of other images than its rows")
    return header, tokens
