"""Questions about images, answered by a multimodal language model, whole or with its vision tokens pruned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from visgen.data.images import to_pil, to_rgb, to_tensor
from visgen.errors import InputError, shown
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.batching import micro_batches, wake
from visgen.pipelines.fewer_tokens import fewer_tokens
from visgen.pipelines.options import positive
from visgen.pipelines.pictures import as_image_list
from visgen.pipelines.vision_language import VisionLanguageModel
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.making import parse_pruner
from visgen.pruning.report import PruneReport

LONGEST = 64
MOST_WORDS = 12  # of a closed vocabulary that a message lists
MOST_UNKNOWN = 4


@dataclass(frozen=True, eq=False)
class AnswerOutput:
    """Answers and what they took.

    Attributes:
        answers: one text per question.
        reports: of each micro-batch, what was pruned; empty without `prune`.
        settings: resolved options, model, device, dtype and version.
    """

    answers: list[str]
    reports: list[PruneReport] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


class AnswerPipeline(ImagePipeline):
    """A multimodal language model that answers questions about images: LLaVA, Qwen-VL and their like.

    Args:
        vision_language_model: the model and its processor.
    """

    model_cpu_offload_seq = "vision_language_model"

    def __init__(self, vision_language_model: VisionLanguageModel) -> None:
        super().__init__()
        self._set_up(None, vision_language_model=vision_language_model)

    @torch.no_grad()
    def __call__(
        self,
        images: Any,
        questions: str | Sequence[str],
        *,
        prune: str | VisionTokenPruner | None = None,
        num_tokens: int | None = None,
        max_new_tokens: int = LONGEST,
        batch_size: int = 8,
    ) -> AnswerOutput:
        """Answer questions, the likeliest word at a time: `pipe(image, "what colour is the circle?")`.

        Args:
            images: one image or many: PIL, arrays or tensors, of any sizes.
            questions: one per image; or one for all images, or many about one image.
            prune: how vision tokens are pruned, METHOD[:KEEP] as in "divprune:0.1", or a pruner of
                `visgen.pruning`; None = not at all.
            num_tokens: read each image with so many tokens, a square, by pooling; for a LLaVA that was
                trained with several counts. None = all.
            max_new_tokens: longest answer.
            batch_size: questions answered at once; a pruner that merges in the vision tower is asked one at a
                time, as it would cut pictures of a batch alike.

        Raises:
            InputError: other numbers of images and questions, an empty question or one with words that a
                closed vocabulary lacks, an unknown pruner, or one that does not fit the model.
        """
        pruner = parse_pruner(prune) if isinstance(prune, str) else prune
        if num_tokens is not None and pruner is not None:
            raise InputError(f"num_tokens={num_tokens} and prune={shown(prune)}: give one of them")
        longest, size = positive("max_new_tokens", max_new_tokens), positive("batch_size", batch_size)
        pictures, texts = pairs(images, questions)
        self._check_words(texts)
        wake(self.vision_language_model)
        size = 1 if pruner is not None and pruner.merges else size
        answers: list[str] = []
        reports: list[PruneReport] = []
        try:
            for _, index in self._progress(len(texts), size):
                asked = [pictures[i] for i in index], [texts[i] for i in index]
                with self._pruned(pruner, reports), self._read(*asked, num_tokens) as inputs:
                    answers += self.write(inputs, longest)
        finally:
            self.maybe_free_model_hooks()
        told = None if pruner is None else shown(pruner)
        settings = self._settings(prune=told, num_tokens=num_tokens, max_new_tokens=longest)
        return AnswerOutput(answers, reports, settings)

    def seen(self, image: Any, question: str) -> tuple[Any, Any]:
        """What the model is given for one question.

        Returns:
            Its inputs, and the picture as it is cut and scaled, a PIL image; the image itself for families
            that keep its proportions.
        """
        picture = pairs(image, question)[0][0]
        inputs = self.vision_language_model.inputs([picture], [question])
        return inputs, _as_seen(inputs.get("pixel_values"), self.vision_language_model.processor) or picture

    @torch.no_grad()
    def write(self, inputs: Any, max_new_tokens: int) -> list[str]:
        """Answers to a batch of inputs, the likeliest word at a time.

        Args:
            inputs: what `VisionLanguageModel.inputs` makes.
            max_new_tokens: longest answer.

        Raises:
            InputError: prompts that are too long for the model.
        """
        self._check_length(inputs, max_new_tokens)
        model = self.vision_language_model
        ids = model.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        return model.answers(ids[:, inputs["input_ids"].shape[1] :].cpu())

    def _progress(self, count: int, size: int) -> Any:
        batches = list(micro_batches(count, size))
        return self.progress_bar(batches) if len(batches) > 1 else batches

    @contextmanager
    def _pruned(self, pruner: VisionTokenPruner | None, reports: list[PruneReport]) -> Iterator[None]:
        """Prune inside the block, and keep its report."""
        if pruner is None:
            yield
            return
        with pruner(self.vision_language_model.model) as run:
            yield
            reports.append(run.report)

    @contextmanager
    def _read(self, pictures: list[Any], texts: list[str], num_tokens: int | None) -> Iterator[Any]:
        made = self.vision_language_model.inputs(pictures, texts)
        with fewer_tokens(self.vision_language_model.model, made, num_tokens) as inputs:
            yield inputs

    def _check_length(self, inputs: Any, longest: int) -> None:
        config = self.vision_language_model.model.config.get_text_config()
        length, most = inputs["input_ids"].shape[1], getattr(config, "max_position_embeddings", None)
        if most is not None and length + longest > most:
            raise InputError(
                f"a question and its image have {length} ids: with max_new_tokens={longest} that is more "
                f"than the {most} that this model reads; ask less"
            )

    def _check_words(self, questions: Sequence[str]) -> None:
        model = self.vision_language_model
        token = getattr(model.processor, "image_token", None)
        for question in questions:
            if token and token in question:
                raise InputError(f"question {shown(question)} holds {token}, which stands for the image")
            bare = "".join(c if c.isalnum() or c.isspace() else " " for c in question)
            if unknown := model.unknown_words(bare):
                known = model.known_words()
                some = ", ".join(known[:MOST_WORDS]) + (", …" if len(known) > MOST_WORDS else "")
                raise InputError(
                    f"question {shown(question)} has words that this model does not know: "
                    f"{', '.join(word[:30] for word in unknown[:MOST_UNKNOWN])}; it knows {some}"
                )


def pairs(images: Any, questions: str | Sequence[str]) -> tuple[list[Any], list[str]]:
    """As many PIL images as questions; a single one of either stands beside all of the other.

    Raises:
        InputError: numbers that do not fit, or a question that is no text.
    """
    pictures = [_picture(one) for one in as_image_list(images, "images")]
    texts = [questions] if isinstance(questions, str) else list(questions)
    for text in texts:
        if not isinstance(text, str) or not text.strip() or not _is_unicode(text):
            raise InputError(f"question {shown(text)} must be a text that is not empty, in valid Unicode")
    count = max(len(pictures), len(texts))
    if {len(pictures), len(texts)} - {1, count} or not texts:
        raise InputError(
            f"{len(pictures)} images and {len(texts)} questions: give a question per image, or one of either"
        )
    return pictures * (count // len(pictures)), texts * (count // len(texts))


def _is_unicode(text: str) -> bool:
    """Whether no half of a surrogate pair is left, as bytes of the command line that are no text leave."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _picture(image: Any) -> Any:
    return to_rgb(image) if isinstance(image, Image.Image) else to_pil(to_tensor(image))[0]


def _as_seen(pixels: Tensor | None, processor: Any) -> Any:
    """A batch (1, 3, H, W) of normalised pixels as a picture; None for another shape."""
    if pixels is None or pixels.ndim != 4 or len(pixels) != 1:
        return None
    mean, std = (
        torch.tensor(getattr(processor.image_processor, name)) for name in ("image_mean", "image_std")
    )
    unit = pixels.float().cpu() * std[:, None, None] + mean[:, None, None]
    return to_pil(unit * 2 - 1)[0]
