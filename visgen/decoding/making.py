"""Strategies from what a user writes: `NAME`, `NAME:VALUE`, `NAME:KEY=VALUE`, or the strategy itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from visgen.decoding import STRATEGIES
from visgen.errors import InputError, shown
from visgen.schema import read, read_word

if TYPE_CHECKING:
    from visgen.decoding.base import DecodingStrategy


def make_strategy(
    strategy: str | DecodingStrategy, options: Mapping[str, Any] | None = None
) -> DecodingStrategy:
    """A decoding strategy.

    Args:
        strategy: a registered name; `NAME:VALUE`, where VALUE is the strategy's main option (a decimal point
            means a fraction, an integer a count) and other options may follow, as in
            `lantern:0.2:drafts=jacobi:window=32`; or an instance, which takes no options.
        options: fields of the strategy by name.

    Raises:
        InputError: unknown name or option, a value of another type or out of range.
    """
    options = dict(options or {})
    if not isinstance(strategy, str):
        _check_made(strategy)
        if options:
            raise InputError(
                f"options {shown(options)} come with a strategy that is made already; give its name instead"
            )
        return strategy
    name, *words = strategy.split(":")
    cls = STRATEGIES.load(name)
    for word in words:
        key, equals, value = word.partition("=")
        found = {key: read_word(value)} if equals else _main_option(cls, name, word)
        for key in found.keys() & options.keys():
            raise InputError(f"{key} is given twice for strategy {name!r}; give it once")
        options |= found
    _check_names(cls, name, options)
    return read(cls, options, where=name)


def _check_made(strategy: Any) -> None:
    from visgen.decoding.base import DecodingStrategy

    if not isinstance(strategy, DecodingStrategy):
        raise InputError(
            f"strategy={shown(strategy)} must be a name, such as 'sjd' or 'jacobi:32', or a DecodingStrategy"
        )


def _main_option(cls: Any, name: str, value: str) -> dict[str, Any]:
    """The option that VALUE sets."""
    if cls.main_option is None:
        raise InputError(f"strategy {name}:{value}: {name!r} has no main option; write {name!r}")
    return {cls.main_option: read_word(value)}


def _check_names(cls: Any, name: str, options: Mapping[str, Any]) -> None:
    known = sorted(field.name for field in dataclasses.fields(cls) if field.init)
    for key in options:
        if key not in known:
            listed = ", ".join(known) or "none"
            raise InputError(f"unknown option {key!r} of strategy {name!r}; known options: {listed}")
