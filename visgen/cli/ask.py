"""`visgen ask`: what a multimodal language model answers to a question about pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visgen.cli.answering import ANSWER_MODEL, MaxTokens, Prune, check_pruner
from visgen.cli.console import say
from visgen.cli.options import Device, Dtype, Model, Offline, given, open_model

if TYPE_CHECKING:
    from visgen.pipelines.answer import AnswerOutput

SCHEMA = 1  # of --json


def ask(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", show_default=False)],
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    model: Model = ANSWER_MODEL,
    prune: Prune = None,
    num_tokens: Annotated[
        int | None,
        typer.Option(
            "--num-tokens", min=1, metavar="N", help="Pool each picture to N tokens, a square number."
        ),
    ] = None,
    max_tokens: MaxTokens = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead.")] = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Pictures read at once: 8, or less memory.")
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    offline: Offline = False,
) -> None:
    """Answer a question about pictures, a line each: visgen ask a.png b.png "what colour is the circle?"."""
    from visgen.data.images import read_image

    check_pruner(prune)
    pictures = [read_image(path) for path in images]
    options = given(prune=prune, num_tokens=num_tokens, max_new_tokens=max_tokens, batch_size=batch_size)
    pipe = open_model(model, "answer", dtype, device, offline)
    output = pipe(pictures, question, **options)
    if as_json:
        say(json.dumps(_document(images, question, model, output), ensure_ascii=False, indent=2))
        return
    for path, answer in zip(images, output.answers, strict=True):
        say(f"{path}: {answer}" if len(images) > 1 else answer)


def _document(images: list[Path], question: str, model: str, output: AnswerOutput) -> dict[str, Any]:
    answers = [
        {"image": str(path), "answer": answer} for path, answer in zip(images, output.answers, strict=True)
    ]
    head = {"schema": SCHEMA, "model": model, "question": question, "settings": output.settings}
    return {**head, "answers": answers, "pruning": [report.to_dict() for report in output.reports]}
