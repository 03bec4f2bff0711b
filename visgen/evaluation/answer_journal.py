"""What was answered so far, a line per batch and method, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from visgen.errors import InputError, shown
from visgen.evaluation.answer_batches import Told

Key = tuple[str, str, int]  # weights, method, batch


class AnswerJournal:
    """Answers by weights, method and batch, in memory and, with a path, in a file that grows.

    A last line that was cut short by a kill is written anew. Another method may be added to a run that was
    interrupted; anything else that decides an answer must be as it was.

    Args:
        path: of JSON lines; None = memory alone.
        head: what decides an answer.

    Raises:
        InputError: a file of another run, or one that cannot be read or written.
    """

    def __init__(self, path: Path | None, head: Mapping[str, Any]) -> None:
        self.path, self._told = path, dict[Key, Told]()
        if path is None:
            return
        try:
            lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
            kept = self._read(lines[:-1], dict(head))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{str(path)!r} cannot be used ({error}); give another place") from error

    def get(self, key: Key) -> Told | None:
        """What was told, or None."""
        return self._told.get(key)

    def add(self, key: Key, told: Told) -> None:
        """Note what was told."""
        self._told[key] = told
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line({"key": key, **asdict(told)}) + "\n")

    def close(self) -> None:
        """The run is over: remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, lines: list[str], head: dict[str, Any]) -> list[str]:
        """The lines that hold."""
        if not lines:
            return [_line(head)]
        if lines[0] != _line(head):
            raise InputError(
                f"{str(self.path)!r} holds answers of another run ({shown(lines[0])}); finish that one with "
                "its own options, remove the file, or give another -o"
            )
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                weights, method, batch = entry.pop("key")
                self._told[str(weights), str(method), int(batch)] = Told(**entry)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(
                    f"{str(self.path)!r} has a damaged line ({error}); remove the file"
                ) from error
        return lines


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False)
