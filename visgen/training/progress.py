"""Progress bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import Any

from visgen.training.recipe import Recipe

logger = logging.getLogger(__name__)
_SHOWN = 8  # values of a log line beside the step


class Progress:
    """Rate, time left and the latest values of a run."""

    def __init__(self, recipe: Recipe, start: int, enabled: bool) -> None:
        self._recipe, self._start, self._enabled = recipe, start, enabled
        self._steps, self._since = 0, time.perf_counter()
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        disable = None if self._enabled else True  # None: only where stderr is a terminal
        self._bar = tqdm(total=self._recipe.steps, initial=self._start, unit="step", disable=disable)
        self._stack.enter_context(self._bar)
        if not self._bar.disable:
            self._stack.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def advance(self) -> None:
        """Count a step."""
        self._steps += 1
        self._bar.update()

    def rate(self) -> float:
        """Images per second over all processes since the last call."""
        now = time.perf_counter()
        rate = self._steps * self._recipe.batch_size / max(now - self._since, 1e-9)
        self._steps, self._since = 0, now
        return rate

    def show(self, line: dict[str, Any]) -> None:
        """Show a log line: loss and rate on the bar, its first values in the log."""
        rate = line["images_per_second"]
        self._bar.set_postfix_str(f"loss {line['loss']:.4f}, {rate:.0f} img/s")
        names = [name for name in line if name not in ("step", "loss", "images_per_second")][:_SHOWN]
        others = "".join(f"  {name} {line[name]:.4g}" for name in names)
        left = (self._recipe.steps - line["step"]) * self._recipe.batch_size / max(rate, 1e-9)
        steps = f"step {line['step']}/{self._recipe.steps}"
        logger.info(
            "%s  loss %.5g%s  %.0f img/s  %.0f min left", steps, line["loss"], others, rate, left / 60
        )
