"""Many images into a folder, one PNG each; a run that was stopped goes on where it stopped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visgen.data.images import write_png
from visgen.errors import InputError, shown
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.batch_folder import BatchFolder, Picture
from visgen.pipelines.batch_record import describe, settle
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.conditioning import as_labels, warn_of_unknown_words
from visgen.pipelines.flow_decoding import check_length, decoding_request, length_facts
from visgen.pipelines.metadata import image_facts, text_chunks
from visgen.pipelines.options import override, positive
from visgen.pipelines.rows import Row, as_rows
from visgen.pipelines.strategies import strategy_facts, strategy_request
from visgen.pipelines.text_to_image import TextToImagePipeline


@dataclass(frozen=True)
class FolderResult:
    """What a run left.

    Attributes:
        folder: where.
        total: images of the batch, all of them in the folder now.
        made: those that this run made.
        seed: of the rows that have none of their own.
    """

    folder: Path
    total: int
    made: int
    seed: int


def generate_folder(
    pipe: ImagePipeline,
    rows: Sequence[str | int | Row],
    folder: str | os.PathLike[str],
    *,
    num_images: int = 1,
    seed: int | None = None,
    negative_prompt: str | None = None,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
    strategy: str | None = None,
    strategy_options: Mapping[str, Any] | None = None,
    num_tokens: int | None = None,
    decoding: Mapping[str, Any] | None = None,
    **sampling: Any,
) -> FolderResult:
    """Write `{row:06d}_{j}.png` for each row and j < `num_images`, and `index.jsonl`; memory stays flat.

    The same call again makes what is missing and touches nothing else. Image j of a row is drawn from
    (seed, row · num_images + j), so it depends neither on the others nor on where a run was stopped: pixels
    are those of an uninterrupted run (same machine, thread count and `batch_size`). In float32 on a CPU
    another `batch_size` may be used to go on, which changes about one image in 500; elsewhere the batch has
    one fixed shape, so `batch_size` belongs to it.

    Args:
        pipe: a text-to-image or class-to-image pipeline.
        rows: prompts, labels, or `Row`s with seeds of their own (`read_rows` reads a file).
        folder: made if missing; `batch.json` in it says what the batch is.
        num_images: of each row.
        seed: of the rows that have none; None = that of the batch in the folder, or a fresh one.
        negative_prompt: what guidance leads away from; prompts only.
        batch_size: images computed at once.
        strategy, strategy_options: how next-token models decode, see `TextToImagePipeline`.
        num_tokens, decoding: of models of 1-D sequences and decoders that start from noise, see there.
        on_progress: called with (images there, images in all) at the start and as they appear.
        sampling: keywords of the pipeline's call: `guidance_scale`, `top_k`, …

    Raises:
        InputError: a bad argument, a folder in use by another run, or one that holds something else: another
            batch (naming what differs), or pictures of no batch.
    """
    rows = as_rows(rows)
    count, size = positive("num_images", num_images), positive("batch_size", batch_size)
    _check_subjects(pipe, rows, negative_prompt)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise InputError(f"seed={shown(seed)} must be an integer, or None for a fresh one")
    fixed = torch.device(pipe._execution_device).type != "cpu" or pipe.dtype != torch.float32
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
    with BatchFolder(folder) as place:
        chosen = settle(place, record)
        pictures = _pictures(rows, count, chosen)
        made = _fill(pipe, place, pictures, size, options, on_progress or (lambda done, total: None))
    return FolderResult(place.folder, len(pictures), made, chosen)


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


def _pictures(rows: Sequence[Row], count: int, seed: int) -> list[Picture]:
    return [
        Picture(i, j, row.subject, seed if row.seed is None else row.seed, i * count + j)
        for i, row in enumerate(rows)
        for j in range(count)
    ]


def _fill(
    pipe: ImagePipeline,
    place: BatchFolder,
    pictures: list[Picture],
    size: int,
    options: Mapping[str, Any],
    report: Callable[[int, int], None],
) -> int:
    """Make what is missing; returns how many."""
    missing = set(place.unfinished(pictures))
    place.write_index([one for one in pictures if one not in missing])
    done, total = len(pictures) - len(missing), len(pictures)
    report(done, total)
    with _without_repeated_warnings():
        for start in range(0, total, size):
            batch = pictures[start : start + size]
            wanted = [one for one in batch if one in missing]
            if wanted:
                _make(pipe, place, batch, wanted, options)
                done += len(wanted)
                report(done, total)
    place.write_index(pictures)
    return len(missing)


def _make(
    pipe: Any, place: BatchFolder, batch: list[Picture], wanted: list[Picture], options: Mapping[str, Any]
) -> None:
    """Compute a batch and write those wanted of it. Batches are cut where an uninterrupted run cuts them, and
    computed whole: floats show their neighbours in the last bit, and about one image in 500 turns on it."""
    seeds, ordinals = [one.seed for one in batch], [one.ordinal for one in batch]
    result = pipe([one.subject for one in batch], seed=seeds, ordinals=ordinals, **options)
    for image, picture, facts in zip(result.images, batch, image_facts(result), strict=True):
        if picture in wanted:
            chunks = text_chunks([facts], str(pipe.name_or_path or "unnamed"), result.settings)
            write_png(image, place.folder / picture.name, chunks)
    place.append(wanted)


@contextmanager
def _without_repeated_warnings() -> Iterator[None]:
    """Unknown words have been told for all rows together."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "prompt: this model does not know", UserWarning)
        yield
