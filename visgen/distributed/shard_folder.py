"""A folder of image shards: `000000.tar`, … (WebDataset), `batch.json` and `index.json`.

The shards are the truth. Each holds a fixed range of numbers of images and appears whole or not at all, so a
job that was killed at any moment goes on from the shards that are there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from visgen.data.webdataset import list_samples
from visgen.errors import InputError
from visgen.pipelines.batch_folder import BatchFolder

SCHEMA, KIND = 1, "visgen-images"
INDEX_NAME = "index.json"
SHARD = r"\d{6,}\.tar"
FILES = {"png", "json"}  # of a sample


def shard_name(number: int) -> str:
    """File name of a shard, counted from 0."""
    return f"{number:06d}.tar"


def key_of(number: int) -> str:
    """Key of an image in its shard, by its number in the batch."""
    return f"{number:09d}"


def cut(total: int, size: int) -> list[range]:
    """0 … total − 1 as ranges of `size`; the last one may be shorter."""
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


class ShardFolder(BatchFolder):
    """The folder that one job fills; lock and record are those of a batch of single pictures."""

    own_files = rf"{SHARD}|{re.escape(INDEX_NAME)}"

    def has(self, number: int, images: range) -> bool:
        """Whether a shard is there, whole; its headers are read, about 45 µs an image.

        Raises:
            InputError: a tar of that name with something else in it.
        """
        path = self.folder / shard_name(number)
        if not path.is_file():
            return False
        try:
            samples = list_samples(path)
        except InputError:  # what a crash of the machine left of one
            return False
        found = [sample.key for sample in samples if set(sample.files) == FILES]
        wanted = [key_of(image) for image in images]
        if found != wanted[: len(found)] or len(found) != len(samples):
            raise InputError(f"{path} is no shard of this batch; move it away")
        return len(found) == len(wanted)

    def finish(self, shards: Sequence[range]) -> None:
        """Write the index, which stands for a whole job, and remove what killed workers left.

        Raises:
            RuntimeError: a shard is missing.
        """
        missing = [shard_name(n) for n in range(len(shards)) if not (self.folder / shard_name(n)).is_file()]
        if missing:
            raise RuntimeError(f"{len(missing)} shards are missing, {missing[0]} first")
        self.remove_leftovers()
        head = {"schema": SCHEMA, "kind": KIND, "images": sum(map(len, shards))}
        lines = ",\n  ".join(json.dumps(self._shard_line(n, images)) for n, images in enumerate(shards))
        text = f'{json.dumps(head, indent=1)[:-2]},\n "shards": [\n  {lines}\n ]\n}}\n'
        path = self.folder / INDEX_NAME
        if not path.is_file() or path.read_bytes() != text.encode():
            self.replace(INDEX_NAME, text.encode())

    def _shard_line(self, number: int, images: range) -> dict[str, Any]:
        name = shard_name(number)
        size = os.path.getsize(self.folder / name)
        return {"shard": name, "first": images.start, "images": len(images), "bytes": size}
