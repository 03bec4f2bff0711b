"""Options of a call: the `DEFAULT` sentinel, sampling overrides, dtypes."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from enum import Enum
from typing import Any, Final, Literal, TypeVar

import torch

from visgen.errors import InputError, UnknownNameError
from visgen.registry import nearest


class Default(Enum):
    """Type of `DEFAULT`; needed because None means "off"."""

    DEFAULT = "the model's default"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT
Sampling = TypeVar("Sampling")
OutputType = Literal["pil", "np", "pt"]
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def override(sampling: Sampling, **options: Any) -> Sampling:
    """A copy of a sampling dataclass with the options that are not `DEFAULT`.

    Raises:
        InputError: an option that this family of models does not have, or a bad value.
    """
    given = {name: value for name, value in options.items() if value is not DEFAULT}
    known = {field.name for field in fields(sampling)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise InputError(
                f"{name}={given[name]!r}: this model has no such option, only {', '.join(sorted(known))}"
            )
    try:
        return replace(sampling, **given)  # type: ignore[type-var]
    except TypeError as error:  # a value of a type that cannot be compared with a number
        raise InputError(f"options {given!r} hold a value of the wrong type ({error})") from error


def changed_options(sampling: Any) -> dict[str, Any]:
    """The fields that differ from the family's defaults, for files."""
    defaults = asdict(type(sampling)())
    return {name: value for name, value in asdict(sampling).items() if value != defaults[name]}


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | str | None:
    """A torch dtype, "auto" (as stored), None (float32), or a name such as "bf16"."""
    if dtype is None or dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise UnknownNameError(f"unknown dtype {dtype!r}: {nearest(str(dtype), ['auto', *DTYPES])}")
    return DTYPES[dtype]


def positive(name: str, value: int) -> int:
    """`value` if it is an integer of 1 or more, else `InputError` naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r} must be an integer of 1 or more")
    return value


def check_output_type(output_type: str) -> None:
    """Raise `InputError` unless it is "pil", "np" or "pt"."""
    if output_type not in ("pil", "np", "pt"):
        raise InputError(f"output_type={output_type!r} must be 'pil', 'np' or 'pt'")
