"""Many images into a folder, one PNG each; a run that was stopped goes on where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visgen.data.images import write_png
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.batch_folder import BatchFolder, Picture
from visgen.pipelines.batch_plan import BatchPlan, draw, plan_batch, without_repeated_warnings
from visgen.pipelines.batch_record import settle
from visgen.pipelines.metadata import image_facts, text_chunks
from visgen.pipelines.rows import Row


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
    plan = plan_batch(
        pipe,
        rows,
        num_images=num_images,
        seed=seed,
        negative_prompt=negative_prompt,
        batch_size=batch_size,
        strategy=strategy,
        strategy_options=strategy_options,
        num_tokens=num_tokens,
        decoding=decoding,
        **sampling,
    )
    with BatchFolder(folder) as place:
        chosen = settle(place, plan.record)
        pictures = list(plan.pictures(chosen))
        made = _fill(pipe, place, pictures, plan, on_progress or (lambda done, total: None))
    return FolderResult(place.folder, len(pictures), made, chosen)


def _fill(
    pipe: ImagePipeline,
    place: BatchFolder,
    pictures: list[Picture],
    plan: BatchPlan,
    report: Callable[[int, int], None],
) -> int:
    """Make what is missing; returns how many."""
    missing = set(place.unfinished(pictures))
    place.write_index([one for one in pictures if one not in missing])
    done, total = len(pictures) - len(missing), len(pictures)
    report(done, total)
    with without_repeated_warnings():
        for start in range(0, total, plan.batch_size):
            batch = pictures[start : start + plan.batch_size]
            wanted = [one for one in batch if one in missing]
            if wanted:
                _make(pipe, place, batch, wanted, plan.options)
                done += len(wanted)
                report(done, total)
    place.write_index(pictures)
    return len(missing)


def _make(
    pipe: Any, place: BatchFolder, batch: list[Picture], wanted: list[Picture], options: Mapping[str, Any]
) -> None:
    """Compute a batch and write those wanted of it. Batches are cut where an uninterrupted run cuts them, and
    computed whole: floats show their neighbours in the last bit, and about one image in 500 turns on it."""
    result = draw(pipe, batch, options)
    for image, picture, facts in zip(result.images, batch, image_facts(result), strict=True):
        if picture in wanted:
            chunks = text_chunks([facts], str(pipe.name_or_path or "unnamed"), result.settings)
            write_png(image, place.folder / picture.name, chunks)
    place.append(wanted)
