"""What the verbs `ask` and `prune` share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from visgen.cli.options import open_model
from visgen.errors import InputError, UnknownNameError

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


def open_answer_model(model: str, dtype: str | None, device: str | None, offline: bool) -> Any:
    """The pipeline that answers; while the default model does not ship, this says how to come by one.

    Raises:
        InputError: as `visgen.load`.
    """
    try:
        return open_model(model, "answer", dtype, device, offline)
    except UnknownNameError as error:
        if model != ANSWER_MODEL:
            raise
        raise InputError(
            f"{ANSWER_MODEL} does not ship with this visgen; train it, visgen train recipes/scenes-vlm.yaml, "
            "and give -m runs/scenes-vlm/model, or name another model, such as -m llava-hf/llava-1.5-7b-hf"
        ) from error
