"""Classifier-free guidance: `u + s (c − u)`; s = 1 is off. Schedules are named functions of position in [0,
1].

"constant" is s throughout and "linear" VAR's ramp from off to full. "cosine", "half_linear" and "two_stage"
are Token-Shuffle's (arXiv 2504.17789). ELM (arXiv 2410.16257), TiTok ("maskgit_linear") and RAR
("power_cosine") count positions otherwise, see `step_position`. "power_cosine:P" raises the position to the
power P first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from visgen.errors import InputError, UnknownNameError
from visgen.registry import nearest

# position → share of the way from 1 (off) to s
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "linear": lambda u: u,
    "cosine": lambda u: (1 - math.cos(math.pi * u)) / 2,
    "half_linear": lambda u: min(1.0, 2 * u),
    "two_stage": lambda u: 0.0 if u < 0.5 else 1.0,
    "elm_linear": lambda u: u,
    "elm_cosine": lambda u: math.sin(math.pi * u / 2),
    "elm_log": lambda u: math.log(1 + u * (math.e - 1)),
    "elm_square": lambda u: u * u,
    "elm_square_root": math.sqrt,
    "maskgit_linear": lambda u: u,
    "power_cosine": lambda u: (1 - math.cos(math.pi * u)) / 2,
}
# What counts from 0 at the first step to (n − 1) / n at the last
FROM_THE_START = ("elm_square_root", "maskgit_linear", "power_cosine")


def guidance_at(scale: float, schedule: str, position: float) -> float:
    """Guidance scale at a position in [0, 1].

    Raises:
        UnknownNameError: an unknown schedule.
        InputError: a power where none is taken, or none that is finite and from 0.
    """
    name, power = _parsed(schedule)
    return scale if name == "constant" else 1.0 + (scale - 1.0) * SCHEDULES[name](position**power)


def _parsed(schedule: str) -> tuple[str, float]:
    """Name and power of a schedule, 1 where none is given."""
    name, colon, text = schedule.partition(":")
    if name not in SCHEDULES:
        raise UnknownNameError(
            f"unknown guidance_schedule {schedule!r}: {nearest(schedule, sorted(SCHEDULES))}"
        )
    try:
        power = float(text) if colon else 1.0
    except ValueError:
        power = -1.0
    if not 0 <= power < math.inf or (colon and name != "power_cosine"):
        raise InputError(f"guidance_schedule={schedule!r}: only power_cosine takes a power, such as :2.75")
    return name, power


def step_position(schedule: str, index: int, total: int) -> float:
    """Position of step `index` of `total`: 0 at the first, 1 at the last; for ELM's schedules (i + 1) / n,
    and i / n for those of `FROM_THE_START`."""
    if schedule.partition(":")[0] in FROM_THE_START:
        return index / total
    if schedule.startswith("elm_"):
        return (index + 1) / total
    return index / (total - 1) if total > 1 else 1.0


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """`u + s (c − u)` in the tensors' dtype."""
    return unconditional + scale * (conditional - unconditional)
