"""Writing results: whole or not at all, and never over something else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visgen.data.files import replacing
from visgen.errors import InputError


def check_new(path: str | os.PathLike[str], option: str) -> Path:
    """`path`, if nothing is there and its folder can hold a file.

    Raises:
        InputError: naming `option`.
    """
    target = Path(path)
    if target.exists():
        raise InputError(f"{option} {str(target)!r} exists; nothing is overwritten, so give a new name")
    parent = next((folder for folder in target.parents if folder.exists()), Path("."))
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(
            f"{option} {str(target)!r} cannot be written below {str(parent)!r}; give another place"
        )
    return target


def write_once(path: str | os.PathLike[str], write: Callable[[Any], Any], replace: bool = False) -> None:
    """Let `write` fill a binary file that then appears under `path` in one step.

    Args:
        path: where; missing parent folders are made.
        write: called with the open file.
        replace: `path` is the caller's own earlier version of the same file.

    Raises:
        InputError: something else is there, or the place cannot be written.
    """
    target = Path(path)
    try:
        with replacing(target) as file:
            write(file)
            if not replace and target.exists():
                raise FileExistsError(target)
    except FileExistsError:
        raise InputError(f"{str(target)!r} exists; nothing is overwritten, so give a new name") from None
    except OSError as error:
        raise InputError(f"{str(target)!r} cannot be written ({error}); give another place") from error
