"""The rows of a batch: a prompt or a label each, from a list or from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visgen.errors import InputError, shown

BOM = b"\xef\xbb\xbf"  # editors on Windows put it before UTF-8
KEYS = ("prompt", "label", "seed")


@dataclass(frozen=True)
class Row:
    """What some images of a batch show: a prompt (a string) or a class label (an integer).

    Attributes:
        subject: the prompt or the label.
        seed: of these images; None = the batch's own.
    """

    subject: str | int
    seed: int | None = None

    @property
    def kind(self) -> str:
        """ "prompt" or "label"."""
        return "prompt" if isinstance(self.subject, str) else "label"


def as_rows(rows: Sequence[str | int | Row]) -> list[Row]:
    """Prompts, labels or `Row`s as rows of one kind.

    Raises:
        InputError: none at all, another type, or prompts and labels together.
    """
    if isinstance(rows, str) or not isinstance(rows, Sequence) or not rows:
        raise InputError(f"rows={shown(rows)} must be a non-empty list of prompts or labels")
    made = [
        _row(row.subject, row.seed, f"rows[{i}]") if isinstance(row, Row) else _row(row, None, f"rows[{i}]")
        for i, row in enumerate(rows)
    ]
    _check_one_kind(made, lambda i: f"rows[{i}]")
    return made


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Read the rows of a file (UTF-8, with or without a byte order mark).

    `.txt` holds a prompt per line; white space around it is dropped. `.jsonl` holds an object per line:
    `{"prompt": …}` or `{"label": …}`, either with a `"seed"` of its own if wanted. Blank lines count in
    neither: row r is the r-th line that is not blank, from 0.

    Raises:
        InputError: another kind of file, no rows, or a bad line, naming file and line.
    """
    path = Path(path)
    parsers = {".txt": _text_row, ".jsonl": _json_row}
    parse = parsers.get(path.suffix.lower())
    if parse is None:
        raise InputError(f"prompts file {shown(str(path))} must end in .txt (a prompt per line) or .jsonl")
    if not path.is_file():  # a pipe or a device might never end
        what = "is no regular file" if path.exists() else "does not exist"
        raise InputError(f"prompts file {shown(str(path))} {what}; give a .txt or .jsonl")
    lines = list(_lines(path))
    if not lines:
        raise InputError(f"prompts file {shown(str(path))} is empty; write a prompt on each line")
    rows = [parse(text, _place(path, number)) for number, text in lines]
    _check_one_kind(rows, lambda i: _place(path, lines[i][0]))
    return rows


def _place(path: Path, number: int) -> str:
    return f"{path}, line {number}"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that are not blank."""
    for number, line in enumerate(path.read_bytes().removeprefix(BOM).splitlines(), start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{_place(path, number)}: this is no UTF-8 ({error.reason}); save the file as UTF-8"
            ) from None
        if text:
            yield number, text


def _text_row(text: str, where: str) -> Row:
    return _row(text, None, where)


def _json_row(text: str, where: str) -> Row:
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: this is no JSON object ({error})") from None
    if not isinstance(data, dict) or ("prompt" in data) == ("label" in data):
        raise InputError(f'{where}: a line is {{"prompt": "…"}} or {{"label": 7}}, perhaps with a "seed"')
    for key in data:
        if key not in KEYS:
            raise InputError(f"{where}: unknown key {shown(key)}; a line has {', '.join(KEYS)}")
    wanted: type = str if "prompt" in data else int
    subject = data.get("prompt", data.get("label"))
    if not isinstance(subject, wanted):
        raise InputError(
            f"{where}: {'prompt' if wanted is str else 'label'}={shown(subject)} is no {wanted.__name__}"
        )
    return _row(subject, data.get("seed"), where)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)


def _row(subject: object, seed: object, where: str) -> Row:
    if isinstance(subject, bool) or not isinstance(subject, (str, int)):
        raise InputError(f"{where}: {shown(subject)} must be a prompt (a string) or a label (an integer)")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise InputError(f"{where}: seed={shown(seed)} must be an integer")
    if isinstance(subject, str) and any("\ud800" <= character <= "\udfff" for character in subject):
        raise InputError(f"{where}: prompt {shown(subject)} holds half a character, which UTF-8 cannot write")
    return Row(subject, seed)


def _check_one_kind(rows: Sequence[Row], where: Callable[[int], str]) -> None:
    for i, row in enumerate(rows):
        if row.kind != rows[0].kind:
            raise InputError(
                f"{where(i)}: a {row.kind} where {where(0)} has a {rows[0].kind}; use one of the two"
            )
