"""The folder of a batch: its pictures, its record, its index, and the lock that keeps a second run out.

The pictures are the truth. Each appears whole or not at all (`write_png` renames) and says in its text chunks
what it is, so a run that was killed at any moment goes on from the names that are there. The index is derived
from them: lines are appended after their pictures, and the whole file is written anew when a run starts and
when it ends, which mends a line that a kill cut off.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from visgen.errors import InputError, shown
from visgen.pipelines.locked_folder import LockedFolder

SCHEMA = 1
RECORD_NAME, INDEX_NAME, LOCK_NAME = "batch.json", "index.jsonl", ".batch.lock"
PICTURE = r"\d{6,}_\d+\.png"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Picture:
    """One image of a batch: image `j` of a row, drawn from (`seed`, `ordinal`)."""

    row: int
    j: int
    subject: str | int
    seed: int
    ordinal: int

    @property
    def name(self) -> str:
        """File name in the folder."""
        return f"{self.row:06d}_{self.j}.png"

    def facts(self) -> dict[str, Any]:
        """Prompt or label, seed and ordinal, as its text chunks tell them."""
        kind = "prompt" if isinstance(self.subject, str) else "label"
        return {kind: self.subject, "seed": self.seed, "ordinal": self.ordinal}


class BatchFolder(LockedFolder):
    """The folder that one run of a batch fills; see `LockedFolder` for what entering does.

    Attributes:
        own_files: pattern of the names that a batch gives its files.
    """

    lock_name = LOCK_NAME
    own_files = rf"{PICTURE}|{re.escape(INDEX_NAME)}"

    def _refuse_foreign(self) -> None:
        """Before anything is written: pictures of our names that no record explains belong to someone."""
        if not self.folder.is_dir() or (self.folder / RECORD_NAME).exists():
            return
        names = [name for name in os.listdir(self.folder) if re.fullmatch(self.own_files, name)]
        if names:
            raise InputError(
                f"folder {shown(str(self.folder))} holds {min(names)} but no {RECORD_NAME}, "
                "so no batch made it; choose another folder"
            )

    def record(self) -> dict[str, Any] | None:
        """The record of the batch in this folder; None when there is none yet.

        Raises:
            InputError: a file of that name that is something else.
        """
        return self.read_record(RECORD_NAME, SCHEMA)

    def claim(self, record: Mapping[str, Any]) -> None:
        """Store the record of a new batch."""
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        self.replace(RECORD_NAME, text.encode())

    def unfinished(self, pictures: Iterable[Picture]) -> list[Picture]:
        """The pictures that are not there yet, in order.

        Raises:
            InputError: a picture of that name that says it is another one.
        """
        names = set(os.listdir(self.folder))
        return [one for one in pictures if one.name not in names or not self._is_finished(one)]

    def _is_finished(self, picture: Picture) -> bool:
        path = self.folder / picture.name
        told = _text_of_whole(path)
        if told is None:
            return False
        for name, value in picture.facts().items():
            found = told.get(name)
            if found != str(value):
                raise InputError(
                    f"{path} is another picture: its {name} is {shown(found)}, not {shown(str(value))}; "
                    "move it away"
                )
        return True

    def append(self, pictures: Sequence[Picture]) -> None:
        """Add lines to the index, after the pictures have been written."""
        path = self.folder / INDEX_NAME
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(self._lines(pictures))
        except OSError as error:
            raise InputError(f"path {shown(str(path))} cannot be written ({error})") from error

    def write_index(self, pictures: Sequence[Picture]) -> None:
        """Write the index of these pictures anew, in one step."""
        self.replace(INDEX_NAME, self._lines(pictures).encode())

    def _lines(self, pictures: Sequence[Picture]) -> str:
        return "".join(json.dumps(self._line(one), ensure_ascii=False) + "\n" for one in pictures)

    def _line(self, picture: Picture) -> dict[str, Any]:
        size = (self.folder / picture.name).stat().st_size
        place = {"row": picture.row, "j": picture.j, "file": picture.name}
        return place | picture.facts() | {"bytes": size}


def _text_of_whole(path: Path) -> dict[str, str] | None:
    """Text chunks of a whole PNG, without decoding it; None for what a crash of the machine left of one."""
    try:
        with path.open("rb") as file:
            start = file.read(len(PNG_START))
            file.seek(-len(PNG_END), os.SEEK_END)
            if start != PNG_START or file.read() != PNG_END:
                return None
        with Image.open(path, formats=["PNG"]) as image:
            return {str(name): str(text) for name, text in image.info.items()}
    except (OSError, SyntaxError, ValueError):
        return None
