"""What the verbs `ask` and `prune` share."""

from __future__ import annotations

from typing import Annotated

import typer

ANSWER_MODEL = "scenes-vlm"

Prune = Annotated[
    str | None,
    typer.Option(
        "--prune",
        metavar="METHOD[:KEEP]",
        help="Read fewer vision tokens: divprune:0.1 keeps 10 %, fastv:64 keeps 64; other options follow as "
        ":KEY=VALUE, further methods after +.",
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, metavar="N", help="Longest answer: 64.")
]


def check_pruner(prune: str | None) -> None:
    """Refuse an unknown method or a bad value before a model is loaded."""
    if prune is not None:
        from visgen.pruning.making import parse_pruner

        parse_pruner(prune)
