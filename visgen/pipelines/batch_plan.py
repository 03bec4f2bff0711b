"""What a batch will draw: everything is checked and resolved before the first image is made."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from visgen.errors import InputError, shown
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.batch_folder import Picture
from visgen.pipelines.batch_record import describe
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.conditioning import as_labels, warn_of_unknown_words
from visgen.pipelines.flow_decoding import check_length, decoding_request, length_facts
from visgen.pipelines.options import override, positive
from visgen.pipelines.rows import Row, as_rows
from visgen.pipelines.strategies import strategy_facts, strategy_request
from visgen.pipelines.text_to_image import TextToImagePipeline


@dataclass(frozen=True)
class BatchPlan:
    """A batch that can be drawn.

    Attributes:
        rows: prompts or labels.
        num_images: of each row.
        batch_size: images computed at once.
        record: what the pixels follow from, see `batch_record.describe`; its seed may still be None.
        options: keywords of the pipeline's call, the same for every micro-batch.
    """

    rows: list[Row]
    num_images: int
    batch_size: int
    record: dict[str, Any]
    options: dict[str, Any]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows) * self.num_images

    def pictures(self, seed: int, first: int = 0, end: int | None = None) -> Iterator[Picture]:
        """The images `first` … `end` − 1, in order; `seed` is that of rows that have none."""
        return pictures_of(self.rows, self.num_images, seed, range(first, len(self) if end is None else end))


def pictures_of(
    rows: Sequence[Row], num_images: int, seed: int, numbers: range, first_row: int = 0
) -> Iterator[Picture]:
    """The images of some numbers: image row · `num_images` + j is the j-th of a row.

    Args:
        rows: those from number `first_row` on.
        num_images: of each row.
        seed: of rows that have none.
        numbers: of the images.
    """
    for number in numbers:
        i, j = divmod(number, num_images)
        row = rows[i - first_row]
        yield Picture(i, j, row.subject, seed if row.seed is None else row.seed, number)


def plan_batch(
    pipe: ImagePipeline,
    rows: Sequence[str | int | Row],
    *,
    num_images: int = 1,
    seed: int | None = None,
    negative_prompt: str | None = None,
    batch_size: int = 16,
    fixed_batch: bool = False,
    strategy: str | None = None,
    strategy_options: Mapping[str, Any] | None = None,
    num_tokens: int | None = None,
    decoding: Mapping[str, Any] | None = None,
    **sampling: Any,
) -> BatchPlan:
    """Check all that a batch is asked for. Arguments as for `generate_folder`, and:

    Args:
        fixed_batch: compute one batch shape although float32 on a CPU would not need it.

    Raises:
        InputError: a bad argument.
    """
    rows = as_rows(rows)
    count, size = positive("num_images", num_images), positive("batch_size", batch_size)
    _check_subjects(pipe, rows, negative_prompt)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise InputError(f"seed={shown(seed)} must be an integer, or None for a fresh one")
    fixed = fixed_batch or torch.device(pipe._execution_device).type != "cpu" or pipe.dtype != torch.float32
    check_length(pipe.generator, pipe.tokenizer, num_tokens)
    told = strategy_facts(strategy, strategy_options)
    told |= length_facts(num_tokens, decoding_request(pipe.tokenizer, decoding))
    record = describe(
        pipe,
        rows,
        override(pipe.sampling, **sampling),
        num_images=count,
        seed=seed,
        negative_prompt=negative_prompt,
        batch_size=size if fixed else None,
        **told,
    )
    negative = {} if negative_prompt is None else {"negative_prompt": negative_prompt}
    strategy_request(pipe, strategy, strategy_options)  # refuse now what would end the run at its first row
    options = {**sampling, **negative, **told, "batch_size": size, "fixed_batch": fixed}
    return BatchPlan(rows, count, size, record, options)


def _check_subjects(pipe: ImagePipeline, rows: Sequence[Row], negative_prompt: str | None) -> None:
    """Refuse now what would end the run at its last row; warn of unknown words once, not batch by batch."""
    subjects: list[Any] = [row.subject for row in rows]
    if not isinstance(pipe, (TextToImagePipeline, ClassToImagePipeline)):
        raise InputError(f"pipe is a {type(pipe).__name__}; it must make images of prompts or of labels")
    takes = "label" if isinstance(pipe, ClassToImagePipeline) else "prompt"
    if rows[0].kind != takes:
        raise InputError(f"rows hold {rows[0].kind}s, but {type(pipe).__name__} takes {takes}s")
    if takes == "prompt":
        texts = [*subjects, *([] if negative_prompt is None else [negative_prompt])]
        pipe.text.check(texts)
        warn_of_unknown_words(pipe.text, texts)
        return
    as_labels(subjects, pipe.num_classes)
    if negative_prompt is not None:
        raise InputError(f"negative_prompt={shown(negative_prompt)} is for prompts; classes have none")


def draw(pipe: Any, pictures: Sequence[Picture], options: Mapping[str, Any]) -> Any:
    """Compute one micro-batch: an `ImageOutput` of Pillow images."""
    seeds, ordinals = [one.seed for one in pictures], [one.ordinal for one in pictures]
    return pipe([one.subject for one in pictures], seed=seeds, ordinals=ordinals, **options)


@contextmanager
def without_repeated_warnings() -> Iterator[None]:
    """Unknown words have been told for all rows together."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "prompt: this model does not know", UserWarning)
        yield
