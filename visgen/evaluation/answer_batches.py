"""One batch of questions asked in many ways, whole and pruned, after one look at the pictures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from visgen.pipelines.answer import AnswerPipeline
from visgen.pipelines.batching import wake
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.chain import PrunerChain
from visgen.pruning.flops import DecoderShape
from visgen.pruning.report import PruneReport
from visgen.pruning.sight import Sight, look
from visgen.pruning.undo import Undo


@dataclass(frozen=True)
class Told:
    """Answers of one batch and what they took.

    Attributes:
        answers: a text per question.
        sums: name → sum over the questions, of tokens, ratios and bytes.
        selection_ms, prefill_ms: per question.
        seconds: of the whole batch.
    """

    answers: list[str]
    sums: dict[str, float]
    selection_ms: float
    prefill_ms: float
    seconds: float = 0.0


class SharedBatch:
    """Questions about one picture each, which are looked at once.

    Answers are those of `AnswerPipeline` for the same questions at once; of a pruner that merges in the
    vision tower, those for one question at a time.

    Args:
        pipe: the model.
        pictures, questions: of one length.
        pruners: that will be asked for.
        max_new_tokens: longest answer.

    Raises:
        InputError: a model of another family, or prompts that are too long.
    """

    def __init__(
        self,
        pipe: AnswerPipeline,
        pictures: Sequence[Image.Image],
        questions: Sequence[str],
        pruners: Sequence[VisionTokenPruner],
        max_new_tokens: int,
    ) -> None:
        self.pipe, self.max_new_tokens = pipe, max_new_tokens
        wake(pipe.vision_language_model)
        self.inputs = pipe.vision_language_model.inputs(pictures, questions)
        parts = [part for pruner in pruners for part in pruner.parts]
        layers = {part.tower_layer for part in parts if part.tower_layer is not None}
        self.sight: Sight = look(pipe.vision_language_model.model, self.inputs, layers)

    def ask(self, pruner: VisionTokenPruner | None) -> Told:
        """What the model answers; None = whole.

        Raises:
            InputError: a pruner that does not fit the model.
        """
        if pruner is None:
            return self._whole()
        if not pruner.merges:
            with self.sight.pruned(pruner) as run:
                answers = self.pipe.write(self.inputs, self.max_new_tokens)
            return _told(answers, [run.report])
        return self._in_groups(pruner)

    def _in_groups(self, pruner: VisionTokenPruner) -> Told:
        answers, reports = [""] * len(self.inputs["input_ids"]), []
        for rows in self.sight.even_rows(pruner):
            inputs = {name: value[rows] for name, value in self.inputs.items()}
            with pruner(self.sight.model) as run:
                texts = self.pipe.write(inputs, self.max_new_tokens)
            reports.append(run.report)
            for row, text in zip(rows, texts, strict=True):
                answers[row] = text
        return _told(answers, reports)

    def _whole(self) -> Told:
        model, mask_BL = self.sight.model, self.inputs["attention_mask"]
        with self.sight.whole(), _timed(model.model) as spent:
            answers = self.pipe.write(self.inputs, self.max_new_tokens)
        images = sum(entry.num_slots for entry in self.sight.encoder.last["image"].entries)
        shape = DecoderShape.of(model.config.get_text_config())
        stored = shape.cache_entry(model.dtype.itemsize) * shape.num_layers * int(mask_BL.sum())
        sums = dict.fromkeys(("image_tokens", "entered_tokens", "kept_tokens", "average_tokens"), images)
        ratios = dict.fromkeys(("flops_ratio", "paper_flops_ratio"), float(len(answers)))
        return Told(answers, {**sums, **ratios, "cache_bytes": stored}, 0.0, spent[0] / len(answers))


def drawing(pruner: VisionTokenPruner, number: int) -> VisionTokenPruner:
    """The pruner as batch `number` is asked with it: pruners that draw take another seed for each batch."""
    parts = [_reseeded(part, number) for part in pruner.parts]
    return PrunerChain(parts) if isinstance(pruner, PrunerChain) else parts[0]


def _reseeded(part: VisionTokenPruner, number: int) -> VisionTokenPruner:
    seed = getattr(part, "seed", None)
    return part if seed is None else dataclasses.replace(part, seed=seed + number)  # type: ignore[call-arg]


def _told(answers: list[str], reports: Sequence[PruneReport]) -> Told:
    sums: dict[str, float] = {}
    for report in reports:
        for name, value in _sums(report).items():
            sums[name] = sums.get(name, 0) + value
    selection, prefill = (
        sum(getattr(report, name) for report in reports) / len(answers)
        for name in ("selection_ms", "prefill_ms")
    )
    return Told(answers, sums, selection, prefill)


def _sums(report: PruneReport) -> Mapping[str, float]:
    samples = len(report.kept)
    return {
        "image_tokens": sum(map(sum, report.image_tokens)),
        "entered_tokens": _lengths(report.entered),
        "kept_tokens": _lengths(report.kept),
        "average_tokens": sum(report.average_tokens),
        "flops_ratio": report.flops_ratio * samples,
        "paper_flops_ratio": report.paper_flops_ratio * samples,
        "cache_bytes": sum(report.cache_bytes),
    }


def _lengths(kept: Sequence[Sequence[Tensor]]) -> int:
    return sum(len(image) for row in kept for image in row)


@contextmanager
def _timed(base: Any) -> Iterator[list[float]]:
    """Milliseconds of each forward of the base model; the first reads the prompt."""
    spent: list[float] = []
    begun: list[float] = []

    def now() -> float:
        if base.device.type == "cuda":
            torch.cuda.synchronize(base.device)
        return time.perf_counter() * 1000

    with Undo() as undo:
        undo.before(base, lambda module, args, kwargs: begun.append(now()))
        undo.after(base, lambda module, args, kwargs, output: spent.append(now() - begun[-1]))
        yield spent
