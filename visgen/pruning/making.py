"""Pruners from what a user writes: `METHOD`, `METHOD:VALUE`, `METHOD:VALUE:KEY=VALUE`, joined by `+`."""

from __future__ import annotations

import dataclasses
from typing import Any

from visgen.errors import InputError, shown
from visgen.pruning import PRUNERS
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.chain import PrunerChain
from visgen.schema import read, read_word


def parse_pruner(text: str) -> VisionTokenPruner:
    """A pruner, or a chain of them.

    Args:
        text: a registered name; VALUE sets its main option, mostly `keep` (a decimal point means a fraction,
            an integer a count); other options may follow, as in `fastv:0.5:layer=3` or
            `lazyllm:0.3:depths=0.4,0.8`;
            `divprune:0.5+fastv:0.25` is a chain.

    Raises:
        InputError: unknown method or option, a value of another type or out of range.
    """
    if not isinstance(text, str) or not text:
        raise InputError(f"pruner={shown(text)} must be a method such as 'fastv' or 'uniform:0.25'")
    pruners = [_one(word) for word in text.split("+")]
    return pruners[0] if len(pruners) == 1 else PrunerChain(pruners)


def _one(text: str) -> VisionTokenPruner:
    name, *words = text.split(":")
    cls, options = PRUNERS.load(name), dict[str, Any]()
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            key, value = _main_option(cls, name, word), word
        if key in options:
            raise InputError(f"{key} is given twice for pruner {name!r}; give it once")
        options[key] = read_word(value)
    known = sorted(field.name for field in dataclasses.fields(cls) if field.init)
    for key in options:
        if key not in known:
            raise InputError(f"unknown option {key!r} of pruner {name!r}; known options: {', '.join(known)}")
    return read(cls, options, where=name)


def _main_option(cls: Any, name: str, value: str) -> str:
    if cls.main_option is None:
        raise InputError(f"pruner {name}:{value}: {name!r} has no main option; write {name!r}")
    return cls.main_option
