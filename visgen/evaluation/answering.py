"""The protocols `scenes-vqa` and `scenes-vqa-small`: held-out questions, asked with and without pruners."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import visgen
from visgen.data.scenes import SceneQuestions
from visgen.data.scenes.question_set import Asked
from visgen.evaluation.answer_journal import AnswerJournal
from visgen.evaluation.answer_options import AnswerOptions
from visgen.evaluation.answer_run import WHOLE, AnswerRun
from visgen.evaluation.protocols import get_answer_protocol
from visgen.evaluation.records import SCHEMA, Record, check_comparable, versions
from visgen.evaluation.references import SCENES
from visgen.evaluation.scenes.answers import answer_scores, paired_scores, right_answers
from visgen.pipelines.fingerprint import weights_digest


def evaluate_answers(
    names: Sequence[str],
    options: AnswerOptions | None = None,
    *,
    beside: Sequence[Record] = (),
    on_record: Callable[[Record], None] | None = None,
    journal: Path | None = None,
) -> list[Record]:
    """Ask models held-out questions, whole and with each pruner.

    Batch by batch each picture is looked at once, and then asked about in all ways, so that times stand
    side by side. The answers are those of `AnswerPipeline` (see `SharedBatch`).

    Args:
        names: what `visgen.load` takes.
        options: what is asked for; None = all defaults.
        beside: earlier records that the new ones must be comparable with.
        on_record: called with each record as soon as it is there.
        journal: a file that keeps answers while this runs, from which an interrupted run goes on; it is
            removed in the end.

    Returns:
        One JSON-ready record per model and pruner, the whole model first.

    Raises:
        InputError: a model that does not answer, a pruner that does not fit it, or records that differ.
    """
    options = options or AnswerOptions()
    source = SceneQuestions(options.split, options.count, get_answer_protocol(options.protocol).small)
    asked = [source[i] for i in range(options.count)]
    notes = AnswerJournal(journal, _journal_head(options))
    records: list[Record] = []
    for name in names:
        pipe = visgen.load(
            name, "answer", dtype=options.dtype, device=options.device, local_files_only=options.offline
        )
        weights = weights_digest(pipe)
        head = _head(name, weights, asked, options)
        check_comparable(head, next(iter([*beside, *records]), head))
        run = AnswerRun(pipe, weights, asked, options, notes)
        run.ask()
        for method in run.methods:
            records.append(_record(run, method, head))
            if on_record is not None:
                on_record(records[-1])
    notes.close()
    return records


def _journal_head(options: AnswerOptions) -> dict[str, Any]:
    """What decides the answers of a batch, methods and weights apart."""
    config = asdict(options)
    names = ("protocol", "split", "count", "batch_size", "device", "dtype")
    return {"schema": SCHEMA, **{name: config[name] for name in names}, "versions": _versions()}


def _head(name: str, weights: str, asked: Sequence[Asked], options: AnswerOptions) -> Record:
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
            "checkpoint_sha256": weights,
        },
        "protocol": asdict(protocol),
        "extractor_sha256": None,
        "reference": {"name": f"{SCENES}{options.split}", "digest": digest, "count": len(asked)},
        "count": len(asked),
    }


def _record(run: AnswerRun, method: str, head: Record) -> Record:
    """Scores and costs of one method; a pruner's beside those of the whole model."""
    name = head["subject"]["name"]
    questions, seed = [one.question for one in run.asked], run.options.seed
    answers, costs = run.answers(method), run.costs(method)
    scores = {**head, "metrics": answer_scores(answers, questions, seed), **_facts(run, method)}
    if method == WHOLE:
        return {**scores, "pruning": None, "paired": None, "reading": costs}
    right, whole = (right_answers(one, questions) for one in (answers, run.answers(WHOLE)))
    return {
        **scores,
        "subject": {**head["subject"], "name": f"{name} + {method}"},
        "pruning": {"method": method, "name": method.split(":")[0], **costs},
        "paired": {"beside": name, "differences": paired_scores(right, whole, questions, seed)},
        "reading": None,
    }


def _facts(run: AnswerRun, method: str) -> dict[str, Any]:
    """How the record came about."""
    options = run.options
    return {
        "config": asdict(options) | {"prune": list(options.prune)},
        "seeds": {
            "seed": options.seed,
            "rule": "question i is always the same; the seed is the bootstrap's; a pruner that draws takes "
            "its own seed plus the number of the batch",
        },
        "versions": _versions(),
        "device": str(run.pipe._execution_device),
        "dtype": str(run.pipe.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": 1,
        "seconds": {"answer": run.seconds(method)},
    }


def _versions() -> dict[str, str | None]:
    return versions({"torch": "torch", "transformers": "transformers", "numpy": "numpy"})
