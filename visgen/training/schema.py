"""Strict reading of nested mappings into dataclasses: unknown keys and wrong types are named, with the
nearest key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from visgen.errors import InputError
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
            f"{where or 'the recipe'} is {values!r}; it needs to be a mapping of names to values"
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


def join(where: str, key: object) -> str:
    """`where.key`, or `key` at the top."""
    return f"{where}.{key}" if where else str(key)


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`; raises `InputError` naming `where`. Integers are good floats, lists good
    tuples."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(value, typing.get_args(hint), where)
    if origin is Literal:
        return _literal(value, typing.get_args(hint), where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else read(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _tuple(value, typing.get_args(hint), where)
    plain = origin or hint
    if hint is Any or (isinstance(value, plain) and not (isinstance(value, bool) and plain is not bool)):
        return value
    raise InputError(f"{where}={value!r} is a {type(value).__name__}; it needs to be {_name(hint)}")


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
        raise InputError(f"{where}={value!r} is unknown; use one of {', '.join(map(str, options))}")
    return value


def _tuple(value: typing.Sequence[Any], hints: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise InputError(f"{where}={list(value)!r} has {len(value)} values; it needs {len(hints)}")
    return tuple(
        convert(item, hint, f"{where}[{i}]") for i, (item, hint) in enumerate(zip(value, hints, strict=True))
    )


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
