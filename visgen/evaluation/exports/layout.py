"""The contract of export layouts: what is drawn, and how the pictures are laid out for a judge."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visgen.data.files import LEFTOVER, replacing
from visgen.errors import InputError
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.subjects import ModelSubject

PictureAt = Callable[[int, int], Path]  # (row, j) → its PNG


@dataclass(frozen=True, eq=False)
class LayoutRequest:
    """What a layout is made for.

    Attributes:
        subject: what draws.
        options: of the evaluation; `prompts` are not looked at.
        prompts: the file or folder of --prompts.
        per_prompt: images of each prompt; None = as the judge wants them.
    """

    subject: ModelSubject
    options: EvaluationOptions
    prompts: Path | None = None
    per_prompt: int | None = None


class Layout(ABC):
    """Pictures as a judge reads them.

    Attributes:
        rows: a prompt or a label each.
        per_row: pictures of each.
        told: whether the prompts came with the request, so that they are what the pictures are judged by.
        place: file or folder below the export's own.
        judge: what reads it, in words.
    """

    rows: list[str] | list[int]
    per_row: int
    told: bool = True
    place: str
    judge: str

    @abstractmethod
    def arrange(self, target: Path, picture: PictureAt) -> None:
        """Lay the pictures out at `target`; what is there already must be the same.

        Raises:
            InputError: something else is there.
        """


def settle_bytes(path: Path, content: bytes) -> None:
    """A file of this content at `path`, written in one step where nothing is.

    Raises:
        InputError: another content is there.
    """
    if not path.exists():
        with replacing(path) as file:
            file.write(content)
    elif not path.is_file() or path.read_bytes() != content:
        raise InputError(f"{str(path)!r} is something else than this export writes there; move it away")


def sweep(folder: Path) -> None:
    """Remove what a run left half-written in a folder that was killed there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch(LEFTOVER, path.name):
            path.unlink()


def read_png(path: Path) -> Image.Image:
    """A picture of the export, decoded."""
    with Image.open(path, formats=["PNG"]) as image:
        return image.convert("RGB")
