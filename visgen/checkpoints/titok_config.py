"""The nested configurations of `bytedance/1d-tokenizer`: {"model": {"vq_model": …, "generator": …}, …}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from visgen.errors import InputError, shown


def section(config: Mapping[str, Any] | None, *path: str) -> dict[str, Any]:
    """The values at a path of nested names; empty where one of them is missing.

    Raises:
        InputError: something else than names and values on the way.
    """
    found: Any = config or {}
    for depth, name in enumerate(path):
        found = found.get(name) or {}
        if not isinstance(found, Mapping):
            where = ".".join(path[: depth + 1])
            raise InputError(f"config.{where}={shown(found)} must be a mapping of names to values")
    return dict(found)


def known(config: Mapping[str, Any], names: Iterable[str], where: str) -> dict[str, Any]:
    """A section whose names are all known.

    Raises:
        InputError: another name.
    """
    wanted = set(names)
    if surplus := [key for key in config if key not in wanted]:
        raise InputError(f"config.{where}.{surplus[0]} is unknown; known are {', '.join(sorted(wanted))}")
    return dict(config)
