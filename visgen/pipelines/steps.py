"""The progress bar and the per-step callback of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from visgen.generators.base import GenerationStep
from visgen.pipelines.output import Callback, StepState


class StepReporter:
    """Follows the steps of all micro-batches of one call; a context manager that closes its bar.

    Args:
        pipe: the pipeline, handed to the callback.
        batches: number of micro-batches.
        decode: latents (B, D, h, w) of a step → pixels (B, 3, H, W).
        callback: `callback(pipe, step, total, state)`, or None.
    """

    def __init__(
        self, pipe: Any, batches: int, decode: Callable[[Tensor], Tensor], callback: Callback | None
    ) -> None:
        self.pipe = pipe
        self.batches = batches
        self.decode = decode
        self.callback = callback
        self.bar: Any = None

    def __enter__(self) -> StepReporter:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_step(self, step: GenerationStep, rows: range) -> None:
        """Advance the bar and call back with the rows of this micro-batch (padding left out)."""
        if self.bar is None:  # the number of steps is known only now
            self.bar = self.pipe.progress_bar(total=step.total * self.batches)
        self.bar.update()
        if self.callback is not None:
            self.callback(self.pipe, step.index, step.total, self._state(step, rows))

    def _state(self, step: GenerationStep, rows: range) -> StepState:
        ids = None if step.ids is None else step.ids[: len(rows)]
        if step.latents is None:
            return StepState(rows, ids, None)
        latents = step.latents[: len(rows)].clone()  # generators may go on writing into theirs
        return StepState(rows, ids, lambda: self.decode(latents))
