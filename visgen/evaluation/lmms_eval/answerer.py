"""Requests of lmms-eval answered by a multimodal language model whose vision tokens are pruned."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

import visgen
from visgen.errors import InputError
from visgen.evaluation.lmms_eval.requests import Asked, Writing, batches, message
from visgen.evaluation.lmms_eval.writing import Draws, Forced
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.answer import AnswerPipeline
from visgen.pruning.families import locate
from visgen.pruning.making import parse_pruner
from visgen.pruning.report import PruneReport


@dataclass
class Kept:
    """Sums over the prompts with pictures that were read so far."""

    prompts: int = 0
    image_tokens: int = 0
    kept_tokens: int = 0
    average_tokens: float = 0.0
    flops_ratio: float = 0.0
    selection_ms: float = 0.0
    prefill_ms: float = 0.0

    def add(self, report: PruneReport) -> None:
        """Count a batch."""
        rows = len(report.kept)
        self.prompts += rows
        self.image_tokens += sum(map(sum, report.image_tokens))
        self.kept_tokens += sum(len(image) for row in report.kept for image in row)
        self.average_tokens += sum(report.average_tokens)
        self.flops_ratio += report.flops_ratio * rows
        self.selection_ms += report.selection_ms
        self.prefill_ms += report.prefill_ms

    def __str__(self) -> str:
        if not self.prompts:
            return "no prompt with a picture was pruned"
        mean = {name: value / self.prompts for name, value in vars(self).items()}
        return (
            f"{self.prompts} prompts: {mean['kept_tokens']:.1f} of {mean['image_tokens']:.1f} vision tokens "
            f"reached the last layer, {mean['average_tokens']:.1f} as a mean of the layers, "
            f"{100 * mean['flops_ratio']:.1f} % of the decoder's multiply-adds; "
            f"{mean['selection_ms']:.2f} ms of selection and {mean['prefill_ms']:.1f} ms of prefill each"
        )


class Likelihood(NamedTuple):
    """Of a continuation: the sum of its tokens' log-probabilities, how many they are, and whether greedy
    decoding writes it."""

    total: float
    tokens: int
    greedy: bool


class Answerer:
    """Writes answers to requests, and tells how likely given ones are.

    Args:
        pretrained: what `visgen.load` takes, a model of one of `visgen.pruning.families.FAMILIES`.
        prune: METHOD[:KEEP], as of `visgen ask`; None = the whole model.
        batch_size: requests at once, padded on the left; a pruner that merges in the vision tower reads one
            at a time, as it would cut the pictures of a batch alike.
        device: None = a GPU where there is one.
        dtype: as `visgen.load`.
        seed: of the draws of tasks with a temperature: request n draws from (seed, n).
        system_prompt: in front of every request.

    Attributes:
        kept: what was pruned so far.

    Raises:
        InputError: a model or a pruner that does not fit, or a batch size that is no count.
    """

    def __init__(
        self,
        pretrained: str,
        prune: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = "auto",
        seed: int = 0,
        system_prompt: str | None = None,
    ) -> None:
        self.pruner = None if prune is None else parse_pruner(str(prune))
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise InputError(f"batch_size={batch_size} must be a number of requests from 1 on")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        pipe: AnswerPipeline = visgen.load(pretrained, "answer", dtype=dtype, device=device)
        self.language = pipe.vision_language_model
        locate(self.language.model)
        merges = self.pruner is not None and self.pruner.merges
        self.batch_size = 1 if merges else int(batch_size)
        self.seed, self.system_prompt = seed, system_prompt
        self.kept = Kept()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.language.device

    def write(self, asked: Sequence[Asked], writings: Sequence[Writing]) -> list[str]:
        """An answer to each request; it does not depend on what else is asked."""
        answers = [""] * len(asked)
        keys = [(writing, bool(one.images)) for one, writing in zip(asked, writings, strict=True)]
        for numbers in self._batches(keys, asked):
            writing = writings[numbers[0]]
            processor = self._draws(writing, numbers)
            made = self._generate(
                [asked[n] for n in numbers], processor, writing.max_new_tokens, writing.num_beams
            )
            for number, text in zip(numbers, self.language.answers(made), strict=True):
                answers[number] = writing.cut(text)
        return answers

    def likelihoods(self, asked: Sequence[Asked], continuations: Sequence[str]) -> list[Likelihood]:
        """How likely each continuation is behind its prompt.

        The prompt alone is pruned; the continuation is read token by token behind it, so that no pruner sees
        what is asked for.

        Raises:
            InputError: a continuation without tokens.
        """
        found: dict[int, Likelihood] = {}
        for numbers in self._batches([bool(one.images) for one in asked], asked):
            group = [asked[n] for n in numbers]
            forced = Forced([self._ids(one, continuations[n]) for one, n in zip(group, numbers)], self.device)
            self._generate(group, forced, forced.steps, 1)
            rows = (forced.sums_B, forced.lengths_B, forced.greedy_B)
            for number, *row in zip(numbers, *(values.tolist() for values in rows)):
                found[number] = Likelihood(*row)
        return [found[number] for number in range(len(asked))]

    def _batches(self, keys: Sequence[Any], asked: Sequence[Asked]) -> list[list[int]]:
        return batches([(key, len(one.text)) for key, one in zip(keys, asked, strict=True)], self.batch_size)

    def _draws(self, writing: Writing, numbers: Sequence[int]) -> Draws | None:
        if writing.temperature is None:
            return None
        sampling = TokenSampling(writing.temperature, writing.top_k, writing.top_p)
        return Draws(
            sampling, Noise.per_image([(self.seed, number) for number in numbers], stream="lmms-eval")
        )

    @torch.no_grad()
    def _generate(
        self, asked: Sequence[Asked], processor: Draws | Forced | None, longest: int, num_beams: int
    ) -> Tensor:
        """(B, T) ids of the answers alone."""
        inputs = self._inputs(asked)
        pruner = self.pruner if asked[0].images else None
        plain = {"repetition_penalty": 1.0} if isinstance(processor, Forced) else {}
        with nullcontext() if pruner is None else pruner(self.language.model) as run:
            made = self.language.model.generate(
                **inputs,
                **plain,
                max_new_tokens=longest,
                do_sample=False,
                num_beams=num_beams,
                logits_processor=None if processor is None else [processor],
            )
        if run is not None:
            self.kept.add(run.report)
        return made[:, inputs["input_ids"].shape[1] :].cpu()

    def _inputs(self, asked: Sequence[Asked]) -> Any:
        images = [image for one in asked for image in one.images]
        made = self.language.processor(
            images=images or None,
            text=[self._prompt(one) for one in asked],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        return made.to(self.language.device, self.language.dtype)

    def _prompt(self, asked: Asked) -> str:
        processor = self.language.processor
        messages = [{"role": "user", "content": message(asked, getattr(processor, "image_token", None))}]
        if self.system_prompt:
            content = [{"type": "text", "text": self.system_prompt}]
            messages.insert(0, {"role": "system", "content": content})
        return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _ids(self, asked: Asked, continuation: str) -> list[int]:
        """Ids of a continuation as they stand behind its prompt."""
        prompt = self._prompt(asked)
        before, whole = (
            self.language.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (prompt, prompt + continuation)
        )
        if len(whole) <= len(before):
            raise InputError(f"continuation {continuation!r} has no tokens of its own; give a text")
        return whole[len(before) :]
