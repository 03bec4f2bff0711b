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
from types import TracebackType
from typing import Any

from PIL import Image

from visgen.data.files import LEFTOVER, replacing
from visgen.errors import InputError, shown

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


class BatchFolder:
    """A context manager that makes the folder, locks it and removes what a killed run left half-written.

    The lock is the operating system's: it ends with the process, however that ends.

    Raises:
        InputError: no folder can be there, another run holds it, or it holds pictures of something else.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def __enter__(self) -> BatchFolder:
        from filelock import FileLock, Timeout

        folder = shown(str(self.folder))
        self._refuse_foreign()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / LOCK_NAME)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"folder {folder} is being filled by another run; wait for it, or choose another"
            ) from None
        except OSError as error:
            raise InputError(f"folder {folder} cannot be used ({error}); choose another") from error
        for name in os.listdir(self.folder):
            if re.fullmatch(LEFTOVER, name):
                (self.folder / name).unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _refuse_foreign(self) -> None:
        """Before anything is written: pictures of our names that no record explains belong to someone."""
        if not self.folder.is_dir() or (self.folder / RECORD_NAME).exists():
            return
        names = [
            name for name in os.listdir(self.folder) if re.fullmatch(PICTURE, name) or name == INDEX_NAME
        ]
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
        path = self.folder / RECORD_NAME
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise InputError(f"{path} is no readable record ({error}); choose another folder") from None
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise InputError(f"{path} is no record of schema {SCHEMA}; choose another folder")
        return record

    def claim(self, record: Mapping[str, Any]) -> None:
        """Store the record of a new batch."""
        self._replace(RECORD_NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

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
        self._replace(INDEX_NAME, self._lines(pictures))

    def _lines(self, pictures: Sequence[Picture]) -> str:
        return "".join(json.dumps(self._line(one), ensure_ascii=False) + "\n" for one in pictures)

    def _line(self, picture: Picture) -> dict[str, Any]:
        size = (self.folder / picture.name).stat().st_size
        place = {"row": picture.row, "j": picture.j, "file": picture.name}
        return place | picture.facts() | {"bytes": size}

    def _replace(self, name: str, text: str) -> None:
        """Write a file in one step, flushed: it is there whole or not at all."""
        try:
            with replacing(self.folder / name) as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"path {shown(str(self.folder / name))} cannot be written ({error})") from error


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
