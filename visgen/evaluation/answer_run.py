"""One model asked a set of questions, whole and with every pruner, batch by batch."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from visgen.data.images import to_pil
from visgen.data.scenes import render
from visgen.data.scenes.question_set import Asked
from visgen.errors import InputError
from visgen.evaluation.answer_batches import SharedBatch, Told, drawing
from visgen.evaluation.answer_journal import AnswerJournal
from visgen.evaluation.answer_options import ALL, LONGEST, AnswerOptions, at_all_retentions
from visgen.evaluation.protocols import get_answer_protocol
from visgen.pipelines.answer import AnswerPipeline
from visgen.pipelines.batching import micro_batches
from visgen.pruning import PRUNERS
from visgen.pruning.making import parse_pruner

logger = logging.getLogger(__name__)
WHOLE = "whole"  # in the place of a method: no pruner


class AnswerRun:
    """Answers and costs by method.

    Args:
        pipe: the model.
        weights: digest of its weights, under which the journal notes answers.
        asked: the questions.
        options: what is asked for.
        journal: of this run, which may hold answers already.
    """

    def __init__(
        self,
        pipe: AnswerPipeline,
        weights: str,
        asked: Sequence[Asked],
        options: AnswerOptions,
        journal: AnswerJournal,
    ) -> None:
        self.pipe, self.weights, self.asked = pipe, weights, asked
        self.options, self.journal = options, journal
        self.batches = [index for _, index in micro_batches(len(asked), options.batch_size)]

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """`WHOLE` and the pruners; of "all" those that fit the model."""
        named = [method for method in self.options.prune if method != ALL]
        if ALL in self.options.prune:
            named += at_all_retentions(filter(self._fits, PRUNERS.names()))
        return (WHOLE, *dict.fromkeys(named))

    @torch.no_grad()
    def ask(self) -> None:
        """Ask whatever was not answered yet."""
        for batch, index in enumerate(self.pipe.progress_bar(self.batches)):
            missing = [m for m in self.methods if self.journal.get((self.weights, m, batch)) is None]
            if missing:
                self._ask(batch, [self.asked[i] for i in index], missing)

    def answers(self, method: str) -> list[str]:
        """One per question."""
        return [answer for told in self._told(method) for answer in told.answers]

    def costs(self, method: str) -> dict[str, Any]:
        """Means over the questions of what was kept and what it cost; milliseconds of a question are the
        median over the batches."""
        told, count = self._told(method), len(self.asked)
        means = {name: sum(one.sums[name] for one in told) / count for name in told[0].sums}
        times = {
            name: statistics.median(getattr(one, name) for one in told)
            for name in ("selection_ms", "prefill_ms")
        }
        return means | times

    def seconds(self, method: str) -> float:
        """That the answers took, without the look at the pictures that methods share."""
        return sum(told.seconds for told in self._told(method))

    def _ask(self, batch: int, asked: Sequence[Asked], methods: Sequence[str]) -> None:
        pruners = {
            method: None if method == WHOLE else drawing(parse_pruner(method), batch) for method in methods
        }
        shared = self._shared(asked, [one for one in pruners.values() if one is not None])
        for method, pruner in pruners.items():
            begun = time.perf_counter()
            told = shared.ask(pruner)
            told = dataclasses.replace(told, seconds=time.perf_counter() - begun)
            self.journal.add((self.weights, method, batch), told)

    def _shared(self, asked: Sequence[Asked], pruners: Sequence[Any], longest: int = LONGEST) -> SharedBatch:
        size = get_answer_protocol(self.options.protocol).image_size
        images = to_pil(render([one.scene for one in asked], size).float() / 127.5 - 1)
        return SharedBatch(self.pipe, images, [one.question.text for one in asked], pruners, longest)

    def _fits(self, name: str) -> bool:
        """Whether a method works on this model; says why where it does not."""
        pruner = parse_pruner(f"{name}:0.5")
        try:
            with torch.no_grad():
                self._shared(self.asked[:1], [pruner], longest=1).ask(pruner)
        except InputError as error:
            logger.warning("%s is left out: %s", name, error)
            return False
        return True

    def _told(self, method: str) -> list[Told]:
        told = [self.journal.get((self.weights, method, batch)) for batch in range(len(self.batches))]
        return [one for one in told if one is not None]
