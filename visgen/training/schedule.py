"""Learning-rate factors as pure functions of the step."""

from __future__ import annotations

import math

from visgen.training.recipe import ScheduleSpec

_LIN0_START = 0.005  # VAR's recipe warms up from 0.005x, others from 1 / warmup_steps


def lr_factor(schedule: ScheduleSpec, step: int, steps: int) -> float:
    """Factor of the peak rate at `step` (0-based) of `steps`; past the end it stays at `final`.

    `lin0` is VAR's schedule: `linear` with a short flat part and a warm-up that starts at 0.005.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        if schedule.name == "lin0":
            return _LIN0_START + (1 - _LIN0_START) * step / warmup
        return (step + 1) / warmup
    if schedule.name == "constant":
        return 1.0
    progress = min((step - warmup) / max(steps - 1 - warmup, 1), 1.0)  # 1 at the last step
    flat = schedule.flat if schedule.flat is not None else (0.05 if schedule.name == "lin0" else 0.0)
    if progress <= flat:
        return 1.0
    remaining = (1 - progress) / (1 - flat)
    shape = (1 - math.cos(math.pi * remaining)) / 2 if schedule.name == "cosine" else remaining
    return schedule.final + (1 - schedule.final) * shape
