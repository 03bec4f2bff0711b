"""The protocols `scenes-vqa` and `scenes-vqa-small`: held-out questions, asked with and without pruners."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

import visgen
from visgen.data.images import to_pil
from visgen.data.scenes import SPLITS, SceneQuestions, render
from visgen.data.scenes.question_set import Asked
from visgen.errors import InputError, shown
from visgen.evaluation.protocols import get_answer_protocol
from visgen.evaluation.records import SCHEMA, Record, check_comparable, versions
from visgen.evaluation.references import DEFAULT_REFERENCE, SCENES
from visgen.evaluation.run import Clock
from visgen.evaluation.scenes.answers import answer_scores
from visgen.pipelines.answer import AnswerOutput, AnswerPipeline
from visgen.pipelines.fingerprint import weights_digest
from visgen.pruning.making import parse_pruner

DEFAULT_COUNT = 2100  # 300 of each of the seven kinds
LONGEST = 16  # tokens of an answer; models that were not trained here write sentences


@dataclass(frozen=True)
class AnswerOptions:
    """What is asked for.

    Attributes:
        protocol: a name of `ANSWER_PROTOCOLS`.
        split: of the scenes.
        count: number of questions.
        prune: methods, each a row of its own beside the whole model.
        seed: of the bootstrap.
        batch_size: questions answered at once.
        device, dtype, offline: as for `visgen.load`.
    """

    protocol: str = "scenes-vqa"
    split: str = "validation"
    count: int = DEFAULT_COUNT
    prune: tuple[str, ...] = ()
    seed: int = 0
    batch_size: int = 32
    device: str | None = None
    dtype: str | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        get_answer_protocol(self.protocol)
        if self.count < 1 or self.batch_size < 1:
            raise InputError(f"count={self.count} and batch_size={self.batch_size} must be 1 or more")
        for method in self.prune:
            parse_pruner(method)


def split_of(reference: str | None) -> str:
    """The split of a reference "scenes:SPLIT"; None = the default one.

    Raises:
        InputError: another kind of reference.
    """
    name = reference or DEFAULT_REFERENCE
    if name.removeprefix(SCENES) not in SPLITS:
        raise InputError(
            f"--reference {shown(name)}: questions are about scenes; use {SCENES}SPLIT with one of "
            f"{', '.join(SPLITS)}"
        )
    return name.removeprefix(SCENES)


def evaluate_answers(
    names: Sequence[str],
    options: AnswerOptions | None = None,
    *,
    beside: Sequence[Record] = (),
    on_record: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Ask models held-out questions, whole and with each pruner.

    Args:
        names: what `visgen.load` takes.
        options: what is asked for; None = all defaults.
        beside: earlier records that the new ones must be comparable with.
        on_record: called with each record as soon as it is there.

    Returns:
        One JSON-ready record per model and pruner, the whole model first.

    Raises:
        InputError: a model that does not answer, a pruner that does not fit it, or records that differ.
    """
    options = options or AnswerOptions()
    source = SceneQuestions(options.split, options.count, get_answer_protocol(options.protocol).small)
    asked = [source[i] for i in range(options.count)]
    records: list[Record] = []
    for name in names:
        pipe = visgen.load(
            name, "answer", dtype=options.dtype, device=options.device, local_files_only=options.offline
        )
        checkpoint = weights_digest(pipe)
        for method in (None, *options.prune):
            head = _head(name if method is None else f"{name} + {method}", checkpoint, asked, options)
            check_comparable(head, next(iter([*beside, *records]), head))
            records.append(head | _ask(pipe, asked, method, options))
            if on_record is not None:
                on_record(records[-1])
    return records


def _head(name: str, checkpoint: str, asked: Sequence[Asked], options: AnswerOptions) -> Record:
    """What decides whether a record may stand beside another one."""
    protocol = get_answer_protocol(options.protocol)
    texts = "\n".join(f"{one.question.text} {one.question.answer} {one.scene}" for one in asked)
    digest = hashlib.sha256(texts.encode()).hexdigest()
    return {
        "schema": SCHEMA,
        "subject": {
            "name": name,
            "kind": "answer",
            "image_size": protocol.image_size,
            "checkpoint_sha256": checkpoint,
        },
        "protocol": asdict(protocol),
        "extractor_sha256": None,
        "reference": {"name": f"{SCENES}{options.split}", "digest": digest, "count": len(asked)},
        "count": len(asked),
    }


def _ask(
    pipe: AnswerPipeline, asked: Sequence[Asked], method: str | None, options: AnswerOptions
) -> dict[str, Any]:
    """Answers to all questions, and how they are scored."""
    clock, questions = Clock(), [one.question for one in asked]
    size = get_answer_protocol(options.protocol).image_size
    images = to_pil(render([one.scene for one in asked], size).float() / 127.5 - 1)
    with clock("answer"):
        output = pipe(
            images,
            [one.text for one in questions],
            prune=method,
            max_new_tokens=LONGEST,
            batch_size=options.batch_size,
        )
    return {
        "metrics": answer_scores(output.answers, questions, options.seed),
        "pruning": _pruning(method, output),
        **_facts(pipe, options, clock),
    }


def _facts(pipe: AnswerPipeline, options: AnswerOptions, clock: Clock) -> dict[str, Any]:
    """How the record came about."""
    return {
        "config": asdict(options) | {"prune": list(options.prune)},
        "seeds": {"seed": options.seed, "rule": "question i is always the same; the seed is the bootstrap's"},
        "versions": versions({"torch": "torch", "transformers": "transformers", "numpy": "numpy"}),
        "device": str(pipe._execution_device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": 1,
        "seconds": clock.seconds(),
    }


def _pruning(method: str | None, output: AnswerOutput) -> dict[str, Any] | None:
    """Means over the questions of what was kept and what it cost; None for the whole model."""
    if method is None:
        return None
    reports, samples = output.reports, [len(report.kept) for report in output.reports]

    def mean(values: Sequence[float], weights: Sequence[int] = samples) -> float:
        return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)

    return {
        "method": method,
        "name": method.split(":")[0],
        "image_tokens": mean([sum(map(sum, report.image_tokens)) / len(report.kept) for report in reports]),
        "entered_tokens": mean([_lengths(report.entered) for report in reports]),
        "kept_tokens": mean([_lengths(report.kept) for report in reports]),
        "average_tokens": mean([sum(report.average_tokens) / len(report.kept) for report in reports]),
        "flops_ratio": mean([report.flops_ratio for report in reports]),
        "paper_flops_ratio": mean([report.paper_flops_ratio for report in reports]),
        "selection_ms": sum(report.selection_ms for report in reports) / sum(samples),
        "prefill_ms": sum(report.prefill_ms for report in reports) / sum(samples),
    }


def _lengths(kept: Sequence[Sequence[torch.Tensor]]) -> float:
    """Tokens of a sample, over all of its images, as a mean over the samples."""
    return sum(len(image) for row in kept for image in row) / len(kept)
