"""Tokens that `visgen tokenize` wrote as a training source: nothing is encoded while a generator trains."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open

from visgen.data.batch import Batch
from visgen.data.folder import find_words, take_split
from visgen.data.listing import read_captions
from visgen.errors import InputError, shown
from visgen.pipelines.options import parse_dtype
from visgen.pipelines.token_folder import read_index
from visgen.pipelines.token_shards import ShardHeader, read_header, read_shard
from visgen.pipelines.tokenize import tokenizer_digest
from visgen.tokenizers.tokens import ImageTokens

OPEN_SHARDS = 64  # files that stay open; a permuted epoch jumps between all of them

Condition = Literal["auto", "class", "caption"]


class TokenShards:
    """The tokens of a folder in the order of its index, with classes or captions.

    Args:
        path: a finished folder of `visgen tokenize`.
        condition: "class" (labels that the shards hold, from the `.cls` or `.json` of a WebDataset, else the
            sub-folder in an image's name), "caption" (captions that the shards hold, or of `captions`), None
            for neither, or "auto" for what there is, captions first.
        captions: folder that was tokenized, whose captions (see `ImageFolder`) belong to the tokens; no image
            in it is read.
        split: "train" or "validation".
        validation_fraction: share of the images set aside, chosen by a hash of their names, in [0, 1).

    Attributes:
        holds_tokens: True.
        origin: what made the tokens.
        layout: of the tokens of an image.
        classes: class names by label, or None.
        condition: "class", "caption" or None, as found.
        length: number of images.

    Raises:
        InputError: no finished folder of ids, captions or classes missing, or an empty split.
    """

    holds_tokens = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        condition: Condition | None = "auto",
        captions: str | os.PathLike[str] | None = None,
        split: Literal["train", "validation"] = "train",
        validation_fraction: float = 0.0,
    ) -> None:
        self.path = Path(path)
        self.origin, shards = read_index(self.path)
        headers = [read_header(self.path / shard) for shard in shards]
        self._places = {
            name: (shard, row)
            for shard, header in zip(shards, headers, strict=True)
            for row, name in enumerate(header.names)
        }
        self.layout = self._check_ids(shards)
        self._captions = _captions(captions, headers, list(self._places))
        labels, classes = _labels(headers)
        if condition == "auto":
            condition = "caption" if self._captions else "class" if labels else None
        self.condition = condition
        self._check_condition(labels)
        self._labels, self.classes = (labels, classes) if condition == "class" else (None, None)
        self._words = find_words(self._captions or {})
        if condition != "caption":
            self._captions = None
        self.names = take_split(list(self._places), split, validation_fraction)
        self._open = lru_cache(maxsize=OPEN_SHARDS)(self._open_shard)

    @property
    def length(self) -> int:
        """Number of images."""
        return len(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def words(self) -> tuple[str, ...]:
        """Every word of the captions of all splits, lower case, sorted; empty without captions."""
        return self._words

    def batch(self, indices: Sequence[int], epoch: int = 0) -> Batch:
        """Tokens of B images with captions or labels; `images` is empty. Which of several captions an image
        gets changes with `epoch`.

        Raises:
            IndexError: an index outside the folder.
            InputError: a shard that cannot be read, or an image some of whose tokens were left out.
        """
        if any(not 0 <= index < len(self) for index in indices):
            raise IndexError(f"indices {list(indices)} leave the {len(self)} images of {str(self.path)!r}")
        names = [self.names[index] for index in indices]
        captions, labels = self._captions, self._labels
        return Batch(
            torch.empty(len(names), 3, 0, 0, dtype=torch.uint8),
            captions=None
            if captions is None
            else [captions[name][epoch % len(captions[name])] for name in names],
            labels=None if labels is None else [labels[name] for name in names],
            tokens=ImageTokens(self.layout, ids=torch.cat([self._ids(name) for name in names])),
        )

    def check_made_by(self, tokenizer: Any) -> None:
        """Raise `InputError` unless this tokenizer, in the precision that the folder names, made them."""
        wanted = parse_dtype(self.origin.dtype)
        own = tokenizer if wanted == tokenizer.dtype else copy.deepcopy(tokenizer).to(wanted)
        if tokenizer_digest(own) != self.origin.weights:
            raise InputError(
                f"the tokens in {shown(str(self.path))} were made by other weights ({self.origin.model}) "
                "than those of options.tokenizer; tokenize with that one"
            )
        if self.layout != tokenizer.layout:
            raise InputError(
                f"the tokens in {shown(str(self.path))} have the layout {self.layout}, not the tokenizer's "
                f"{tokenizer.layout}; tokenize without --num-tokens"
            )

    def _check_ids(self, shards: Sequence[str]) -> Any:
        tokens = read_shard(self.path / shards[0])[1]
        if tokens.ids is None:
            raise InputError(
                f"data.path={str(self.path)!r} holds latents; generators learn ids, so take the images"
            )
        self._header = tokens.state_dict()["header"]
        return tokens.layout

    def _check_condition(self, labels: dict[str, int] | None) -> None:
        found = {"caption": self._captions, "class": labels}
        if self.condition is not None and not found[self.condition]:
            hint = "name the folder that was tokenized as data.captions"
            hint = hint if self.condition == "caption" else "tokenize a folder with a sub-folder per class"
            raise InputError(f"the tokens in {shown(str(self.path))} have no {self.condition} each; {hint}")

    def _open_shard(self, name: str) -> Any:
        path = self.path / name
        read_header(path)  # a plain error for a file that was changed since
        shard = safe_open(str(path), "pt")
        if not torch.equal(shard.get_tensor("header"), self._header):
            raise InputError(f"{path} has tokens of another layout than the folder's first shard")
        return shard

    def _ids(self, name: str) -> torch.Tensor:
        """int64 (1, L) or (1, L, K)."""
        file, row = self._places[name]
        shard = self._open(file)
        if "mask" in shard.keys() and not bool(shard.get_slice("mask")[row : row + 1].all()):  # noqa: SIM118
            raise InputError(f"image {shown(name)} has tokens left out; a generator learns whole images")
        return shard.get_slice("ids")[row : row + 1]


def _captions(
    folder: str | os.PathLike[str] | None, headers: Sequence[ShardHeader], names: list[str]
) -> dict[str, list[str]] | None:
    """Captions of each image: of the folder, else of the shards; None where not every shard has them."""
    if folder is not None:
        return read_captions(Path(folder), names)
    if any(header.captions is None for header in headers):
        return None
    return {
        name: [text]
        for header in headers
        for name, text in zip(header.names, header.captions or (), strict=True)
    }


def _labels(headers: Sequence[ShardHeader]) -> tuple[dict[str, int] | None, list[str] | None]:
    """Label of each image and names of the classes: as the shards say, else by the first sub-folder."""
    names = [name for header in headers for name in header.names]
    if all(header.labels is not None for header in headers):
        numbers = [label for header in headers for label in header.labels or ()]
        return dict(zip(names, numbers, strict=True)), [str(n) for n in range(max(numbers) + 1)]
    if any("/" not in name for name in names):
        return None, None
    classes = sorted({name.split("/", 1)[0] for name in names})
    number = {name: k for k, name in enumerate(classes)}
    return {name: number[name.split("/", 1)[0]] for name in names}, classes
