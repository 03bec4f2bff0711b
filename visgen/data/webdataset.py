"""WebDataset: tars in which neighbouring files that share a name up to its first dot are one sample.

Only the headers of a tar are read to find samples; their contents are then read where they lie. Nothing is
decoded but pictures, UTF-8 and JSON, although the format may hold pickles.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from visgen.errors import InputError, shown

SUFFIX = ".tar"
OWNER = {"user": "visgen", "group": "visgen", "mtime": 0}  # equal samples make equal bytes


class Sample(NamedTuple):
    """One sample of a tar: its key, and (offset, bytes) of each of its files by extension, lower case."""

    key: str
    files: dict[str, tuple[int, int]]


def is_webdataset(source: str | os.PathLike[str]) -> bool:
    """Whether a source is named as tars are: `*.tar`, braces allowed."""
    return os.fspath(source).endswith(SUFFIX)


def list_tars(pattern: str | os.PathLike[str]) -> list[Path]:
    """The tars of "data/{000000..000009}.tar" (braces), "data/*.tar" (sorted) or one name.

    Raises:
        InputError: one that is no regular file, or none at all.
    """
    from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

    text = os.path.expanduser(os.fspath(pattern))
    try:
        names = [name for part in braceexpand(text) for name in _globbed(part)]
    except UnbalancedBracesError:
        raise InputError(f"tars {shown(text)} have unbalanced braces; write {{000000..000009}}.tar") from None
    if not names:
        raise InputError(
            f"tars {shown(text)} do not exist; give a .tar, or several as {{000000..000009}}.tar"
        )
    for name in names:
        if not os.path.isfile(name):
            raise InputError(f"tar {shown(name)} is no regular file; give names of WebDataset shards")
    return [Path(name) for name in names]


def _globbed(name: str) -> list[str]:
    import glob

    return sorted(glob.glob(name)) if glob.has_magic(name) and not os.path.exists(name) else [name]


def list_samples(path: str | os.PathLike[str]) -> list[Sample]:
    """The samples of a tar in order; files without an extension, and those named `__…`, are left out.

    Raises:
        InputError: no uncompressed tar, or a sample with two files of one extension.
    """
    samples: list[Sample] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # they would all be kept
                if member.isreg() and not member.issparse():
                    _add(samples, member, path)
    except (tarfile.TarError, OSError, EOFError) as error:
        where = shown(os.fspath(path))
        raise InputError(
            f"tar {where} cannot be read ({error}); it must be whole and uncompressed"
        ) from error
    return samples


def _add(samples: list[Sample], member: tarfile.TarInfo, path: str | os.PathLike[str]) -> None:
    folder, slash, name = member.name.rpartition("/")
    base, dot, extension = name.partition(".")
    if not base or not dot or base.startswith("__"):
        return
    key = folder + slash + base
    if not samples or samples[-1].key != key:
        samples.append(Sample(key, {}))
    files, extension = samples[-1].files, extension.lower()
    if extension in files:
        raise InputError(f"tar {shown(os.fspath(path))} holds two files {shown(f'{key}.{extension}')}")
    files[extension] = (member.offset_data, member.size)


def read_member(file: BinaryIO, place: tuple[int, int]) -> bytes:
    """Content of a file of a sample, from its open tar.

    Raises:
        InputError: the tar ends before.
    """
    offset, size = place
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise InputError(f"tar {shown(str(file.name))} ends in the middle of a file; make it anew")
    return content


def write_samples(file: BinaryIO, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write a tar of samples: (key, extension → content). Equal samples make equal bytes.

    Args:
        file: binary, open for writing.
        samples: written as they come; a key has no dot in its last part.
    """
    from webdataset import TarWriter

    with TarWriter(file, encoder=False, **OWNER) as tar:
        for key, files in samples:
            tar.write({"__key__": key, **files})
