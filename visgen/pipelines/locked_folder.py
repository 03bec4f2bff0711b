"""A folder that one run fills: locked while it does, every file of it whole or not there at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from visgen.data.files import LEFTOVER, flush_names, replacing
from visgen.errors import InputError, shown

Folder = TypeVar("Folder", bound="LockedFolder")


class LockedFolder:
    """A context manager that makes the folder, locks it and removes what a killed run left half-written.

    The lock is the operating system's: it ends with the process, however that ends.

    Attributes:
        lock_name: of the lock file, by what fills the folder.

    Raises:
        InputError: no folder can be there, another run holds it, or it holds something else.
    """

    lock_name = ".lock"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def __enter__(self: Folder) -> Folder:
        from filelock import FileLock, Timeout

        folder = shown(str(self.folder))
        self._refuse_foreign()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / self.lock_name)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"folder {folder} is being filled by another run; wait for it, or choose another"
            ) from None
        except OSError as error:
            raise InputError(f"folder {folder} cannot be used ({error}); choose another") from error
        self.remove_leftovers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _refuse_foreign(self) -> None:
        """Raise `InputError`, before anything is written, where the folder holds files of someone else."""

    def read_record(self, name: str, schema: int) -> dict[str, Any] | None:
        """The JSON object in a file; None when there is no such file.

        Raises:
            InputError: a file of that name that is something else.
        """
        path = self.folder / name
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise InputError(f"{path} is no readable record ({error}); choose another folder") from None
        if not isinstance(record, dict) or record.get("schema") != schema:
            raise InputError(f"{path} is no record of schema {schema}; choose another folder")
        return record

    def replace(self, name: str, content: bytes) -> None:
        """Write a file in one step, flushed: it is there whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file to write piece by piece; it is there, whole and on the disk, when the block ends well.

        Needs no lock: two processes that write the same content under the same name leave it there once.

        Raises:
            InputError: it cannot be written.
        """
        path = self.folder / name
        try:
            with replacing(path) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            flush_names(self.folder)
        except OSError as error:
            raise InputError(f"path {shown(str(path))} cannot be written ({error})") from error

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half-written; only where no other one writes."""
        for name in os.listdir(self.folder):
            if re.fullmatch(LEFTOVER, name):
                with suppress(FileNotFoundError):  # a process that dies late removes its own
                    (self.folder / name).unlink()
