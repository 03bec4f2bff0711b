"""`visgen train`: run a training recipe."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from visgen.cli.console import say


def train(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE", help="A YAML file, such as those in recipes/.", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE …]", help="Keys of the recipe to change.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Refuse a folder that holds an earlier run.")
    ] = False,
) -> None:
    """Train a tokenizer or a generator; the same command resumes where it was interrupted."""
    from visgen.training import train as run

    with _log_on_stderr():
        folder = run(recipe, list(overrides or []), resume=not fresh)
    say(f"{folder}")


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show the library's progress lines: losses, rate, codebook usage."""
    logger, handler = logging.getLogger("visgen"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
