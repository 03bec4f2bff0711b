"""Files that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LEFTOVER = r"\.[0-9a-f]{32}\.tmp"  # name of what a kill between writing and renaming leaves


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of `path` when the block ends well, in one step.

    Missing parent folders are made; after an error nothing is left, and what was at `path` stays.

    Raises:
        OSError: the place cannot be written.
        ValueError: a NUL in the name.
    """
    target = Path(path)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, target)
    finally:
        with suppress(OSError, ValueError):  # it was renamed, or could not be made
            temporary.unlink()


def flush_names(folder: str | os.PathLike[str]) -> None:
    """Bring the names in a folder to the disk, so that what was renamed survives a crash of the machine.

    Systems that cannot open a folder (Windows) keep their names themselves.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
