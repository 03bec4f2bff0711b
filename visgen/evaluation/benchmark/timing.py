"""Seconds: of a call (warm-up, synchronise, median), and of its parts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all that was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of the runs of one call, and what the last run returned."""

    runs: tuple[float, ...]
    result: Any = None

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.runs)


def measure(function: Callable[[], Any], device: torch.device, *, repeats: int, warmup: int = 1) -> Timing:
    """Time `repeats` calls of `function`, after `warmup` calls that are not counted."""
    result, runs = None, []
    for run in range(warmup + repeats):
        synchronise(device)
        start = time.perf_counter()
        result = function()
        synchronise(device)
        if run >= warmup:
            runs.append(time.perf_counter() - start)
    return Timing(tuple(runs), result)


def alternate(
    functions: Sequence[Callable[[], Any]], device: torch.device, *, repeats: int, warmup: int = 1
) -> list[Timing]:
    """Time functions in turn, `repeats` rounds after `warmup` ones: a machine that changes its pace does so
    for all of them."""
    rounds = [
        [measure(function, device, repeats=1, warmup=0) for function in functions]
        for _ in range(warmup + repeats)
    ][warmup:]
    return [
        Timing(tuple(timing.seconds for timing in column), column[-1].result)
        for column in zip(*rounds, strict=True)
    ]


class Timeline:
    """Splits a call into named parts: `enter(name)` ends the part before, and parts of one name add up."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._part: str | None = None
        self._since = 0.0

    def enter(self, part: str | None) -> None:
        """What follows belongs to `part`; None ends the last part."""
        synchronise(self.device)
        now = time.perf_counter()
        if self._part is not None:
            self.seconds[self._part] = self.seconds.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now
