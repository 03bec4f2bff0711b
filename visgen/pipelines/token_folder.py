"""A folder of token shards: `shard-00000.safetensors`, … and `index.json`.

The shards are the truth. Each appears whole or not at all and says in its header whose tokens it holds, so a
run that was killed at any moment goes on from the shards that are there; the list of images in the index is
derived from them when the last one is there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from visgen.errors import InputError, shown
from visgen.pipelines.locked_folder import LockedFolder
from visgen.pipelines.token_shards import KIND, SCHEMA, ShardHeader, TokenOrigin, read_header, shard_bytes
from visgen.schema import read
from visgen.tokenizers.tokens import ImageTokens

INDEX_NAME = "index.json"
SHARD = r"shard-\d{5,}\.safetensors"
SAME = ("source", "shard_size", "batch_size", "weights", "dtype", "num_tokens", "max_error")


def shard_name(number: int) -> str:
    """File name of a shard, counted from 0."""
    return f"shard-{number:05d}.safetensors"


class TokenFolder(LockedFolder):
    """The folder that one run of tokenization fills; see `LockedFolder` for what entering does."""

    lock_name = ".tokens.lock"

    def _refuse_foreign(self) -> None:
        if not self.folder.is_dir() or (self.folder / INDEX_NAME).exists():
            return
        if names := sorted(name for name in os.listdir(self.folder) if re.fullmatch(SHARD, name)):
            raise InputError(
                f"folder {shown(str(self.folder))} holds {names[0]} but no {INDEX_NAME}; choose another"
            )

    def claim(self, origin: TokenOrigin, record: Mapping[str, Any]) -> None:
        """Write down what the folder is to hold, or check that it holds just that.

        Args:
            origin: what makes the tokens.
            record: what else they follow from: `source`, `shard_size`, `batch_size`.

        Raises:
            InputError: it holds something else, naming what differs.
        """
        self._head = {"schema": SCHEMA, "kind": KIND, **record, "origin": asdict(origin)}
        stored = self.read_record(INDEX_NAME, SCHEMA)
        if stored is not None:
            self._compare(stored)
        if stored is None or stored.get("complete"):
            self._write_index(complete=False, lines=iter(()))

    def _compare(self, stored: Mapping[str, Any]) -> None:
        if stored.get("kind") != KIND:
            raise InputError(f"{self.folder / INDEX_NAME} is no index of tokens; choose another folder")
        there, here = _flat(stored), _flat(self._head)
        differing = [name for name in SAME if there.get(name) != here.get(name)]
        if len(differing) > 1 and "weights" in differing:  # in another dtype they are others
            differing.remove("weights")
        if differing:
            told = ", ".join(
                "other weights"
                if name == "weights"
                else f"{name} is {shown(there.get(name))} there, {shown(here.get(name))} here"
                for name in differing
            )
            raise InputError(
                f"folder {shown(str(self.folder))} holds other tokens: {told}; repeat that, or choose another"
            )

    def has(self, number: int, names: list[str], origin: TokenOrigin) -> bool:
        """Whether a shard is there, whole, with the tokens of these images."""
        path = self.folder / shard_name(number)
        try:
            header = read_header(path)
        except InputError:  # none, or what a crash of the machine left of one
            return False
        return list(header.names) == names and header.origin.weights == origin.weights

    def write(
        self, number: int, names: list[str], tokens: ImageTokens, origin: TokenOrigin, **known: Any
    ) -> None:
        """Write a shard in one step; `known`: captions and labels, see `shard_bytes`."""
        self.replace(shard_name(number), shard_bytes(names, tokens, origin, **known))

    def finish(self, count: int) -> list[ShardHeader]:
        """Write the index of the `count` shards, remove later ones of a longer run before; all headers."""
        wanted = [shard_name(number) for number in range(count)]
        for name in os.listdir(self.folder):
            if re.fullmatch(SHARD, name) and name not in wanted:
                (self.folder / name).unlink()
        self.remove_leftovers()
        headers = [read_header(self.folder / name) for name in wanted]
        self._write_index(complete=True, lines=_lines(wanted, headers))
        return headers

    def _write_index(self, complete: bool, lines: Iterator[str]) -> None:
        """The index as JSON with a line per image."""
        head = json.dumps(self._head | {"complete": complete}, indent=1)
        images = ",\n  ".join(lines)
        text = (
            f'{head[:-2]},\n "images": [\n  {images}\n ]\n}}\n'
            if images
            else f'{head[:-2]},\n "images": []\n}}\n'
        )
        self.replace(INDEX_NAME, text.encode())


def _lines(names: list[str], headers: list[ShardHeader]) -> Iterator[str]:
    for shard, header in zip(names, headers, strict=True):
        for row, (name, length) in enumerate(zip(header.names, header.lengths, strict=True)):
            yield json.dumps({"name": name, "shard": shard, "row": row, "tokens": length})


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    origin = record.get("origin")
    return {**record, **(origin if isinstance(origin, dict) else {})}


def read_index(folder: str | os.PathLike[str]) -> tuple[TokenOrigin, list[str]]:
    """What made the tokens of a folder, and its shards in order.

    Raises:
        InputError: no folder of tokens, an unfinished one, or an index that names anything but shards.
    """
    path = Path(folder) / INDEX_NAME
    record = LockedFolder(folder).read_record(INDEX_NAME, SCHEMA) if path.is_file() else None
    if record is None or record.get("kind") != KIND:
        raise InputError(f"{shown(str(folder))} holds no tokens; give a folder that visgen tokenize wrote")
    if not record.get("complete"):
        raise InputError(
            f"folder {shown(str(folder))} is unfinished; repeat visgen tokenize, which goes on from there"
        )
    images = record.get("images")
    shards = list(
        dict.fromkeys(_shard_of(image, path) for image in (images if isinstance(images, list) else []))
    )
    return read(TokenOrigin, record.get("origin"), "origin"), shards


def _shard_of(image: Any, path: Path) -> str:
    name = image.get("shard") if isinstance(image, dict) else None
    if not isinstance(name, str) or not re.fullmatch(SHARD, name):
        raise InputError(f"{path} names the shard {shown(name)}; shards are named {shard_name(0)}, …")
    return name
