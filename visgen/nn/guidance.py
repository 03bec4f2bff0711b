"""Classifier-free guidance: `u + s (c − u)`; s = 1 is off. Schedules are named functions of position in [0,
1]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from visgen.errors import UnknownNameError
from visgen.registry import nearest

Schedule = Callable[[float, float], float]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda scale, position: scale,
    "linear": lambda scale, position: (
        1.0 + (scale - 1.0) * position
    ),  # VAR: off at the first step, full at the last
}


def guidance_at(scale: float, schedule: str, position: float) -> float:
    """Guidance scale at a position in [0, 1]; raises `UnknownNameError` for an unknown schedule."""
    if schedule not in SCHEDULES:
        raise UnknownNameError(
            f"unknown guidance_schedule {schedule!r}: {nearest(schedule, sorted(SCHEDULES))}"
        )
    return SCHEDULES[schedule](scale, position)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """`u + s (c − u)` in the tensors' dtype."""
    return unconditional + scale * (conditional - unconditional)
