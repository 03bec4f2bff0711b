"""What a folder of images holds: its files, and the classes or captions that go with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from visgen.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
CAPTION_FILES = ("captions.jsonl", "metadata.jsonl")


def list_images(root: Path) -> list[str]:
    """Image files below `root` as sorted relative paths with forward slashes; hidden ones are left out.

    Links to folders are followed, except those that lead back to a folder they lie in.

    Raises:
        InputError: `root` is not a folder, or holds no images.
    """
    if not root.is_dir():
        raise InputError(f"root={str(root)!r} is not a folder; give a folder of images.")
    files = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [n for n in subfolders if n[0] != "." and not _leads_back(root, Path(folder), n)]
        here = Path(folder).relative_to(root)
        files += [(here / n).as_posix() for n in names if Path(n).suffix.lower() in SUFFIXES and n[0] != "."]
    if not files:
        raise InputError(f"root={str(root)!r} holds no images ({', '.join(sorted(SUFFIXES))}).")
    return sorted(files)


def _leads_back(root: Path, folder: Path, name: str) -> bool:
    if not (folder / name).is_symlink():
        return False
    way = [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    return os.path.realpath(folder / name) in map(os.path.realpath, way)


def find_condition(root: Path, files: list[str]) -> str | None:
    """The condition a folder offers: "caption" before "class"; None for loose images with no text.

    Raises:
        InputError: sub-folders beside loose images, with no captions: neither reading is safe.
    """
    if any((root / name).exists() for name in CAPTION_FILES):
        return "caption"
    if any(_text_file(root, file).exists() for file in files):
        return "caption"
    loose = sum("/" not in file for file in files)
    if loose == len(files):
        return None
    if loose:
        raise InputError(_mixed(root, files))
    return "class"


def read_classes(root: Path, files: list[str]) -> tuple[list[str], dict[str, int]]:
    """Sorted class names, and the label of each file: the first sub-folder on its path.

    Raises:
        InputError: an image lies in no sub-folder, or a sub-folder has no images.
    """
    if any("/" not in file for file in files):
        raise InputError(_mixed(root, files))
    classes = sorted({file.split("/", 1)[0] for file in files})
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if empty := sorted(folders - set(classes)):
        raise InputError(f"class folder {str(root / empty[0])!r} holds no images; fill it or remove it.")
    label = {name: number for number, name in enumerate(classes)}
    return classes, {file: label[file.split("/", 1)[0]] for file in files}


def read_captions(root: Path, files: list[str]) -> dict[str, list[str]]:
    """The captions of each file, one or more.

    Raises:
        InputError: an image without a caption, a caption without an image, or a line that is not as expected.
    """
    found = [root / name for name in CAPTION_FILES if (root / name).exists()]
    if len(found) == 2:
        raise InputError(f"{str(root)!r} holds both {' and '.join(CAPTION_FILES)}; keep one of them.")
    captions = _read_lines(found[0]) if found else _read_texts(root, files)
    source = found[0].name if found else "a .txt file of the same name"
    if missing := [file for file in files if not captions.get(file)]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"image {missing[0]!r}{more} in {str(root)!r} has no caption; add it in {source}.")
    if surplus := sorted(captions.keys() - set(files)):
        raise InputError(f"{source} names {surplus[0]!r}, not an image in {str(root)!r}; correct file_name.")
    return captions


def _mixed(root: Path, files: list[str]) -> str:
    loose = next(file for file in files if "/" not in file)
    return f"{str(root)!r} has no class for {loose!r}: for classes, put every image in a sub-folder."


def _text_file(root: Path, file: str) -> Path:
    return (root / file).with_suffix(".txt")


def _read_texts(root: Path, files: list[str]) -> dict[str, list[str]]:
    texts = {file: _read(path) for file in files if (path := _text_file(root, file)).exists()}
    return {file: [" ".join(text.split())] for file, text in texts.items() if text.strip()}


def _read_lines(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if line.strip():
            name, texts = _parse_line(line, f"line {number} of {str(path)!r}")
            captions.setdefault(name, []).extend(texts)
    return captions


def _parse_line(line: str, where: str) -> tuple[str, list[str]]:
    try:
        record: Any = json.loads(line)
        name, text = record["file_name"], record["text"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f'{where} is not of the form {{"file_name": "a.png", "text": "..."}}.') from None
    texts = [text] if isinstance(text, str) else text
    if not isinstance(name, str) or not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise InputError(f"{where} needs a string as file_name and a string, or a list of them, as text.")
    return name.removeprefix("./"), [t.strip() for t in texts if t.strip()]


def _read(path: Path) -> str:
    if not path.is_file():  # a pipe would never end
        raise InputError(f"caption file {str(path)!r} is no regular file; use UTF-8 text.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"caption file {str(path)!r} cannot be read ({error}); use UTF-8 text.") from error
