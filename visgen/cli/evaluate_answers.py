"""`visgen evaluate --protocol scenes-vqa`: accuracy of answers, whole and with pruned vision tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visgen.errors import InputError, shown

if TYPE_CHECKING:
    from visgen.evaluation.answer_options import AnswerOptions
    from visgen.evaluation.records import Record

PREFIX = "scenes-vqa"


def is_answer_protocol(protocol: str | None, prune: Sequence[str] | None) -> bool:
    """Whether models are asked questions; `--prune` has no meaning otherwise.

    Raises:
        InputError: `--prune` beside another protocol.
    """
    asked = protocol is not None and protocol.startswith(PREFIX)
    if prune and not asked:
        raise InputError(f"--prune {shown(prune[0])} is of questions; add --protocol {PREFIX}")
    return asked


def refuse_others(options: Mapping[str, Any]) -> None:
    """Refuse options that say nothing about answers.

    Raises:
        InputError: naming the first that was given.
    """
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{option} {shown(str(value))} has no meaning for {PREFIX}; leave it out")


def answer_options(
    protocol: str | None,
    reference: str | None,
    count: int | None,
    prune: Sequence[str] | None,
    seed: int,
    batch_size: int,
    device: str | None,
    dtype: str | None,
    offline: bool,
) -> AnswerOptions:
    """The options of the command line, checked.

    Raises:
        InputError: an unknown protocol, split or pruner.
    """
    from visgen.evaluation.answer_options import DEFAULT_COUNT, AnswerOptions, split_of

    return AnswerOptions(
        protocol=protocol or PREFIX,
        split=split_of(reference),
        count=count or DEFAULT_COUNT,
        prune=tuple(prune or ()),
        seed=seed,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        offline=offline,
    )


def ask_models(
    names: Sequence[str], options: AnswerOptions, earlier: Sequence[Record], output: Path | None
) -> list[Record]:
    """The new records, written as they come; answers are kept in `OUTPUT.part` until all are there."""
    from visgen.evaluation.answering import evaluate_answers
    from visgen.evaluation.records import write_results

    made: list[Record] = []

    def keep(record: Record) -> None:
        made.append(record)
        if output is not None:
            write_results(output, made, replace=len(made) > 1)

    if names:
        journal = None if output is None else output.with_name(output.name + ".part")
        evaluate_answers(names, options, beside=earlier, on_record=keep, journal=journal)
    return made
