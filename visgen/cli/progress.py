"""A bar on stderr for verbs that make many images; nothing where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from visgen.cli.console import note

# Seconds that the rate is measured over: a batch of a large model takes minutes on a CPU.
RATE_WINDOW = 600


@contextmanager
def image_bar() -> Iterator[Callable[[int, int], None]]:
    """A function of (images there, images in all) that shows them with rate and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        def render(self, task: Task) -> str:
            speed = task.finished_speed or task.speed
            return "" if speed is None else f"{speed:.2f} images/s"

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    bar = Progress(
        *columns,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
        speed_estimate_period=RATE_WINDOW,
    )
    with bar:
        task = bar.add_task("images", start=False, total=None)

        def show(done: int, total: int) -> None:
            if bar.tasks[0].total is None:
                bar.update(task, completed=done, total=total)
                bar.start_task(task)
                bar.advance(task, 0)  # the rate counts from here, not from the first batch
            else:
                bar.advance(task, done - bar.tasks[0].completed)

        yield show


@contextmanager
def resumable_bar(folder: Path) -> Iterator[Callable[[int, int], None]]:
    """`image_bar` of a job that an interrupted command goes on with; an interruption says so."""
    try:
        with image_bar() as show:
            yield show
    except KeyboardInterrupt:
        note(f"the same command goes on where it stopped, in {folder}")
        raise
