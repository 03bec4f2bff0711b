"""The images of a folder or of a WebDataset as one numbered list, and reading any stretch of it anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from visgen.data.images import decode_image, read_image
from visgen.data.listing import SUFFIXES, list_images
from visgen.data.webdataset import Sample, is_webdataset, list_samples, list_tars, read_member
from visgen.errors import InputError, shown

EXTENSIONS = frozenset(suffix[1:] for suffix in SUFFIXES)
CAPTION_KEYS = ("caption", "prompt")  # of a sample's .json
Piece = Mapping[str, Any]  # JSON-ready


@dataclass(frozen=True, eq=False)
class Example:
    """One image and what came with it.

    Attributes:
        name: path in the folder, or key in the WebDataset.
        image: RGB.
        caption: of a sample's `.txt`, or "caption" or "prompt" in its `.json`; None without.
        label: of a sample's `.cls`, or "label" in its `.json`; None without.
    """

    name: str
    image: Image.Image
    caption: str | None = None
    label: int | None = None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images by number.

    Attributes:
        source: whole path of the folder, or pattern of the tars.
        names: of the images in order: sorted paths, or keys in the order of the tars.
        tars: (path, samples) of each; None for a folder.
    """

    source: str
    names: list[str]
    tars: list[tuple[str, int]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def piece(self, images: range) -> dict[str, Any]:
        """What another process needs to read some images with `read_piece`."""
        if self.tars is None:
            return {"root": self.source, "names": self.names[images.start : images.stop]}
        parts, start = [], 0
        for path, count in self.tars:
            first, end = max(images.start - start, 0), min(images.stop - start, count)
            if first < end:
                parts.append([path, first, end])
            start += count
        return {"tars": parts}


def open_image_set(source: str | os.PathLike[str]) -> ImageSet:
    """The images of a folder, or of "*.tar" or "{000000..000009}.tar", whose headers are read.

    Raises:
        InputError: no images, a sample without exactly one image, or a key that is there twice.
    """
    if not is_webdataset(source) or os.path.isdir(source):
        root = Path(source)
        return ImageSet(str(root.resolve()), list_images(root))
    names: list[str] = []
    tars = []
    for path in list_tars(source):
        samples = list_samples(path)
        names += [_checked(sample, path) for sample in samples]
        tars.append((str(path.resolve()), len(samples)))
    if not names:
        raise InputError(f"tars {shown(os.fspath(source))} hold no samples; give WebDataset shards")
    _check_unique(names)
    return ImageSet(os.path.abspath(os.path.expanduser(os.fspath(source))), names, tars)


def _checked(sample: Sample, path: Path) -> str:
    _image_extension(sample, str(path))
    parts = Path(sample.key).parts
    if ".." in parts or sample.key.startswith("/"):
        raise InputError(f"tar {shown(str(path))} holds the key {shown(sample.key)}, which leads elsewhere")
    return sample.key


def _image_extension(sample: Sample, path: str) -> str:
    found = sorted(EXTENSIONS & sample.files.keys())
    if len(found) != 1:
        raise InputError(
            f"tar {shown(path)}: sample {shown(sample.key)} has {len(found)} images; each needs one "
            f"({', '.join(sorted(EXTENSIONS))})"
        )
    return found[0]


def _check_unique(names: list[str]) -> None:
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"key {shown(twice)} is in the tars more than once; keys must tell images apart")


def read_piece(piece: Piece) -> Iterator[Example]:
    """The images of `ImageSet.piece`, in order.

    Raises:
        InputError: an image, a caption or a label that cannot be read.
    """
    if "root" in piece:
        for name in piece["names"]:
            yield Example(name, read_image(Path(piece["root"]) / name))
        return
    for path, first, end in piece["tars"]:
        with open(path, "rb") as file:
            for sample in _samples(path, os.path.getsize(path))[first:end]:
                yield _read(sample, file, path)


@lru_cache(maxsize=2)
def _samples(path: str, size: int) -> list[Sample]:
    """Neighbouring pieces share a tar; one of another `size` is another."""
    return list_samples(path)


def _read(sample: Sample, file: BinaryIO, path: str) -> Example:
    where = f"{path}: {sample.key}"
    image = decode_image(read_member(file, sample.files[_image_extension(sample, path)]), where)
    told: dict[str, Any] = {}
    try:
        if "json" in sample.files:
            content = json.loads(read_member(file, sample.files["json"]))
            told = content if isinstance(content, dict) else {}
        caption = next((told[key] for key in CAPTION_KEYS if isinstance(told.get(key), str)), None)
        if "txt" in sample.files:
            caption = read_member(file, sample.files["txt"]).decode("utf-8").strip()
        label = told.get("label") if type(told.get("label")) is int else None
        if "cls" in sample.files:
            label = int(read_member(file, sample.files["cls"]))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown(where)}: its caption or label cannot be read ({error})") from error
    return Example(sample.key, image, caption, label)
