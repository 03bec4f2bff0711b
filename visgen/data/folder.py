"""A folder of image files as a training source, with classes from sub-folders or captions from text files."""

from __future__ import annotations

import hashlib
import operator
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from visgen.data.batch import Batch
from visgen.data.images import PathLike, read_image, resize_center_crop, resize_shorter_side
from visgen.data.listing import find_condition, list_images, read_captions, read_classes
from visgen.errors import InputError

ENLARGE = 1.125  # VAR (arXiv 2404.02905): shorter side to 1.125 x the size, then a crop

Condition = Literal["auto", "class", "caption"]


_WORD = re.compile(r"[^\W_]+")  # as a word vocabulary splits: letters and digits


class ImageFolder:
    """The images below a folder, as squares of `image_size` pixels, in the order of their sorted paths.

    Args:
        root: the folder.
        image_size: side in pixels of what comes out.
        condition: "class" (the sub-folder an image is in; sorted names are the labels), "caption" (`name.txt`
            beside `name.png`, or lines {"file_name", "text"} in `captions.jsonl` or `metadata.jsonl` at the
            root), None for neither, or "auto" for what the folder holds.
        split: "train" or "validation".
        validation_fraction: share of the images set aside, chosen by a hash of their paths, in [0, 1).
        augment: shorter side to 1.125 x `image_size`, then a random crop (train) or the centre (validation);
            False takes the largest centre square instead.
        seed: with the epoch and the index, decides each random crop.

    Attributes:
        classes: class names by label, or None.
        condition: "class", "caption" or None, as found.
        length: number of images.

    Raises:
        InputError: no such folder, no images, captions missing, images of no class, or an empty split.
    """

    def __init__(
        self,
        root: PathLike,
        image_size: int,
        condition: Condition | None = "auto",
        split: Literal["train", "validation"] = "train",
        validation_fraction: float = 0.0,
        augment: bool = True,
        seed: int = 0,
    ) -> None:
        _check(image_size, condition)
        self.root, self.image_size, self.split = Path(root), image_size, split
        self.augment, self.seed = augment, seed
        files = list_images(self.root)
        self.condition = find_condition(self.root, files) if condition == "auto" else condition
        self.classes: list[str] | None = None
        self._captions: dict[str, list[str]] | None = None
        self._labels: dict[str, int] | None = None
        if self.condition == "caption":
            self._captions = read_captions(self.root, files)
        elif self.condition == "class":
            self.classes, self._labels = read_classes(self.root, files)
        self.files = take_split(files, split, validation_fraction)

    @property
    def length(self) -> int:
        """Number of images."""
        return len(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example: `image` uint8 (3, H, W), `caption` and `label` (None where there is none)."""
        batch = self.batch([index])
        return {
            "image": batch.images[0],
            "caption": batch.captions[0] if batch.captions else None,
            "label": batch.labels[0] if batch.labels else None,
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def batch(self, indices: Sequence[int], epoch: int = 0) -> Batch:
        """Images uint8 (B, 3, H, W) with captions or labels; crops and choice of caption change with `epoch`.

        Raises:
            IndexError: an index outside the folder.
            InputError: a file that cannot be read.
        """
        files = [self.files[self._number(index)] for index in indices]
        images = torch.stack([self._image(index, epoch) for index in indices])
        captions, labels = self._captions, self._labels
        return Batch(
            images,
            captions=None if captions is None else [_of_epoch(captions[file], epoch) for file in files],
            labels=None if labels is None else [labels[file] for file in files],
        )

    def words(self) -> tuple[str, ...]:
        """Every word of the captions of all splits, lower case, sorted; empty without captions."""
        return find_words(self._captions or {})

    def _number(self, index: int) -> int:
        number = operator.index(index)
        if not 0 <= number < len(self.files):
            raise IndexError(f"index {number} is outside the {len(self.files)} images of {str(self.root)!r}")
        return number

    def _image(self, index: int, epoch: int) -> torch.Tensor:
        key = f"{self.seed}:{epoch}:{operator.index(index)}"
        image = self._crop(read_image(self.root / self.files[index]), key)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def _crop(self, image: Image.Image, key: str) -> Image.Image:
        size = self.image_size
        if not self.augment:
            return resize_center_crop(image, size)
        image = resize_shorter_side(image, round(ENLARGE * size))
        spare = image.width - size, image.height - size
        if self.split == "train":
            rng = random.Random(key)
            left, top = (int(rng.random() * (pixels + 1)) for pixels in spare)
        else:
            left, top = (pixels // 2 for pixels in spare)
        return image.crop((left, top, left + size, top + size))


def _of_epoch(captions: Sequence[str], epoch: int) -> str:
    return captions[epoch % len(captions)]


def find_words(captions: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Every word of some captions, lower case, sorted."""
    texts = (caption for several in captions.values() for caption in several)
    return tuple(sorted({word for text in texts for word in _WORD.findall(text.lower())}))


def _check(image_size: int, condition: str | None) -> None:
    if image_size < 1:
        raise InputError(f"image_size={image_size} is not a size in pixels; use 1 or more.")
    if condition not in ("auto", "class", "caption", None):
        raise InputError(f"condition={condition!r} is not known; use 'auto', 'class', 'caption' or None.")


def take_split(files: list[str], split: str, fraction: float) -> list[str]:
    """The files of a split. Those with the smallest hashes are set aside, at least one when `fraction` > 0.

    Raises:
        InputError: another split than "train" and "validation", a fraction outside [0, 1), or no file left.
    """
    if split not in ("train", "validation"):
        raise InputError(f"split={split!r} is not a split of a folder; use 'train' or 'validation'.")
    if not 0 <= fraction < 1:
        raise InputError(f"validation_fraction={fraction} is outside [0, 1); use 0.05, say.")
    count = max(1, round(fraction * len(files))) if fraction > 0 else 0
    by_hash = sorted(files, key=lambda file: hashlib.blake2b(file.encode(), digest_size=8).digest())
    chosen = set(by_hash[:count] if split == "validation" else by_hash[count:])
    if not chosen:
        raise InputError(
            f"split={split!r} has no image of {len(files)}; change validation_fraction={fraction}."
        )
    return [file for file in files if file in chosen]
