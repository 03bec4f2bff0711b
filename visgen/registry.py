"""Lazy name → `"module:Class"` tables: listing names imports nothing, loading one imports one module."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from visgen.errors import UnknownNameError


def nearest(name: str, known: list[str]) -> str:
    """Say which known names come closest, or list them all when none does."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}"


class Registry:
    """One family of classes by name.

    Args:
        kind: what an entry is, for messages ("tokenizer").
        entries: name → `"package.module:Class"`.
    """

    def __init__(self, kind: str, entries: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, str] = {}
        for name, target in (entries or {}).items():
            self.register(name, target)

    def register(self, name: str, target: str) -> None:
        """Add an entry; raises `ValueError` when the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already, as {self._entries[name]}")
        self._entries[name] = target

    def names(self) -> list[str]:
        """All names, sorted; imports nothing."""
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def load(self, name: str) -> Any:
        """Import and return the entry; raises `UnknownNameError` naming the nearest ones."""
        if name not in self._entries:
            raise UnknownNameError(f"unknown {self.kind} {name!r}: {nearest(name, self.names())}")
        module, attribute = self._entries[name].split(":")
        return getattr(importlib.import_module(module), attribute)
