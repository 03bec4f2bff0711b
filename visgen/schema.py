"""Strict reading of mappings into dataclasses and keyword arguments: unknown keys and wrong types are named,
with the nearest key."""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from visgen.errors import InputError, shown
from visgen.registry import nearest

T = TypeVar("T")


def read(cls: type[T], mapping: Mapping[str, Any] | None, where: str = "") -> T:
    """Build a dataclass from a mapping, checking names and types all the way down.

    Args:
        cls: a dataclass; fields may be bool, int, float, str, dict, list, tuple, Literal, dataclasses and
            unions.
        mapping: the values; None counts as empty.
        where: dotted path for messages ("optimizer").

    Raises:
        InputError: unknown or missing key, or a value of another type.
    """
    values = {} if mapping is None else mapping
    if not isinstance(values, Mapping):
        raise InputError(
            f"{where or 'the recipe'} is {shown(values)}; it needs to be a mapping of names to values"
        )
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise InputError(f"unknown key {join(where, key)!r}: {nearest(str(key), sorted(fields))}")
    hints = typing.get_type_hints(cls)
    built = {key: convert(value, hints[key], join(where, key)) for key, value in values.items()}
    for name, field in fields.items():
        if name not in built and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{join(where, name)} is missing; add it to the recipe")
    return cls(**built)


def read_arguments(function: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keyword arguments of a function from a mapping, their names and types checked against its signature.

    Args:
        function: a function or a class whose annotations decide; what it leaves to `**options` is passed on
            as it is.
        values: name → value.
        where: dotted path for messages ("model").

    Raises:
        InputError: unknown or missing name, or a value of another type.
    """
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if n != "self" and p.kind is not p.VAR_KEYWORD}
    for key in values:
        if not isinstance(key, str) or (key not in named and not open_ended):
            raise InputError(f"unknown key {join(where, key)!r}: {nearest(str(key), sorted(named))}")
    for name, parameter in named.items():
        if name not in values and parameter.default is parameter.empty:
            raise InputError(f"{join(where, name)} is missing; add it")
    annotated = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    hints = typing.get_type_hints(annotated)
    return {key: convert(value, hints.get(key, Any), join(where, key)) for key, value in values.items()}


def join(where: str, key: object) -> str:
    """`where.key`, or `key` at the top."""
    return f"{where}.{key}" if where else str(key)


def read_word(text: str) -> Any:
    """What a word of the command line means: a count, a fraction, `none`, `true`, `false`, several of them
    with commas (`1,` is one), or the word itself."""
    if "," in text:
        return [read_word(part) for part in text.removesuffix(",").split(",")]
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`; raises `InputError` naming `where`.

    Integers are good floats, lists good tuples; infinity and NaN are good for nothing.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(value, typing.get_args(hint), where)
    if origin is Literal:
        return _literal(value, typing.get_args(hint), where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else read(hint, value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _finite(value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _tuple(value, typing.get_args(hint), where)
    plain = origin or hint
    if hint is Any or (isinstance(value, plain) and not (isinstance(value, bool) and plain is not bool)):
        return value
    raise InputError(f"{where}={shown(value)} is a {type(value).__name__}; it needs to be {_name(hint)}")


def _finite(value: float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{where}={shown(value)} is not a finite number; give one")
    return number


def _union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    real = [option for option in options if option is not type(None)]
    for option in real[:-1]:
        try:
            return convert(value, option, where)
        except InputError:
            continue
    return convert(value, real[-1], where)


def _literal(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value not in options:
        raise InputError(f"{where}={shown(value)} is unknown; use one of {', '.join(map(str, options))}")
    return value


def _tuple(value: typing.Sequence[Any], hints: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise InputError(f"{where}={shown(list(value))} has {len(value)} values; it needs {len(hints)}")
    return tuple(
        convert(item, hint, f"{where}[{i}]") for i, (item, hint) in enumerate(zip(value, hints, strict=True))
    )


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
