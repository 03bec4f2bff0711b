"""The model that lmms-eval imports. Only this module needs lmms-eval."""

from __future__ import annotations

import os
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from loguru import logger

from visgen.errors import InputError
from visgen.evaluation.lmms_eval.answerer import Answerer
from visgen.evaluation.lmms_eval.requests import Asked, pictures, read_writing


class VisgenLmm(lmms):
    """A LLaVA, LLaVA-NeXT, InternVL, Qwen2.5-VL or Qwen3-VL, whole or with its vision tokens pruned.

    Args:
        pretrained, prune, batch_size, device, dtype, seed, system_prompt: of `Answerer`.
        max_batch_size: lmms-eval passes it on; there is nothing to find out.

    Raises:
        InputError: as `Answerer`, or an argument that is unknown.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "scenes-vlm",
        prune: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = "auto",
        seed: int = 0,
        system_prompt: str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            known = "pretrained, prune, dtype, seed and system_prompt"
            raise InputError(
                f"model_args: unknown {', '.join(map(repr, sorted(unknown)))}; known are {known}"
            )
        prune = None if prune is None else str(prune).strip("\"'")  # quotes hold commas together
        self.answerer = Answerer(pretrained, prune, batch_size, _own_gpu(device), dtype, seed, system_prompt)
        self.batch_size = self.answerer.batch_size

    @property
    def device(self) -> Any:
        """Where the model is; lmms-eval gathers counts there."""
        return self.answerer.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers, in the order of the requests.

        Arguments of a request are (text, options, doc_to_visual, number, task, split).
        """
        asked, writings = [], []
        for text, options, doc_to_visual, *place in (request.args for request in requests):
            asked.append(Asked(text, pictures(doc_to_visual(self._doc(*place)))))
            writings.append(read_writing(options))
        answers = self.answerer.write(asked, writings)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args[:2], answer)
        self._log()
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Pairs (loss, greedy): the mean negative log-probability of a continuation's tokens, and whether
        greedy decoding writes it. lmms-eval 0.7 takes the choice of the least loss, whatever the method's
        name says, and makes texts of bare pairs: they come in its wrapper.

        Arguments of a request are (text, continuation or function of the document, doc_to_visual, number,
        task, split), or (text, continuation) without a picture.
        """
        asked, continuations = [], []
        for text, continuation, *rest in (request.args for request in requests):
            doc = self._doc(*rest[1:]) if rest else None
            asked.append(Asked(text, pictures(rest[0](doc)) if rest else ()))
            continuations.append(continuation(doc) if callable(continuation) else continuation)
        found = self.answerer.likelihoods(asked, continuations)
        self._log()
        return [GenerationResult((-one.total / one.tokens, one.greedy)) for one in found]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not served: every turn would read the pictures anew.

        Raises:
            InputError: always.
        """
        raise InputError("tasks of several rounds are not served: a pruned cache takes no further turn")

    def _doc(self, number: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][number]

    def _log(self) -> None:
        if self.answerer.pruner is not None:
            logger.info(f"visgen, {self.answerer.pruner}: {self.answerer.kept}")


def _own_gpu(device: str | None) -> str | None:
    """With one process per GPU (torchrun, accelerate launch), this process's."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or not torch.cuda.is_available() or not (device or "cuda").startswith("cuda"):
        return device
    return f"cuda:{rank}"
