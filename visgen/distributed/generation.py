"""Images of a list of prompts or labels as WebDataset shards, each exactly once, by one process or many."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from visgen.data.webdataset import write_samples
from visgen.distributed.engines import Engine, Task, Worker, do_tasks
from visgen.distributed.models import ModelSource
from visgen.distributed.shard_folder import ShardFolder, cut, key_of, shard_name
from visgen.pipelines.batch_folder import Picture
from visgen.pipelines.batch_plan import BatchPlan, draw, pictures_of, plan_batch, without_repeated_warnings
from visgen.pipelines.batch_record import settle
from visgen.pipelines.folder import FolderResult
from visgen.pipelines.options import positive
from visgen.pipelines.rows import Row, as_rows

SHARD_SIZE = 256


@dataclass(frozen=True)
class ShardsResult(FolderResult):
    """What a run left.

    Attributes:
        shards: number of them.
    """

    shards: int


def generate_shards(
    model: str,
    rows: Sequence[str | int | Row],
    folder: str | os.PathLike[str],
    *,
    engine: Engine | None = None,
    shard_size: int = SHARD_SIZE,
    dtype: str | None = None,
    device: str | None = None,
    offline: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ShardsResult:
    """Write the images of rows into `000000.tar`, … of `shard_size` images, and `index.json`.

    A sample is KEY.png and KEY.json (prompt or label, seed, ordinal, row, j, number); KEY is the image's
    number, row · num_images + j. It is drawn from (seed, number) in micro-batches of one shape that are cut
    within its shard, so pixels depend neither on the engine nor on the number of workers (same kind of
    machine). The same call again makes the shards that are missing, and with another engine too; a shard that
    is there is never made again.

    Args:
        model: what `visgen.load` takes; a folder must be there on every machine.
        rows: prompts, labels, or `Row`s with seeds of their own.
        folder: made if missing, on a file system that all workers share.
        engine: who draws; None = this process.
        shard_size: images of a shard, and what a killed worker loses at most.
        dtype, device, offline: as for `visgen.load`.
        on_progress: called with (images there, images in all) at the start and after each shard.
        options: as for `generate_folder`: `num_images`, `seed`, `batch_size`, `guidance_scale`, …

    Raises:
        InputError: a bad argument, other weights on another machine, a folder in use by another run, or one
            that holds something else.
    """
    engine, rows, per_shard = engine or Engine(), as_rows(rows), positive("shard_size", shard_size)
    task = "class-to-image" if rows[0].kind == "label" else "text-to-image"
    source = ModelSource.of(model, task, dtype, device, offline)
    pipe = source.open(device if engine.name == "local" else "cpu")  # Ray's driver draws nothing
    plan = plan_batch(pipe, rows, **options, fixed_batch=True)
    kind = torch.device(device or "cpu").type
    more = {"device": kind, "shard_size": per_shard, "threads": engine.threads}
    shards = cut(len(plan), per_shard)
    with ShardFolder(folder) as place:
        seed = settle(place, plan.record | more)
        missing = [n for n, images in enumerate(shards) if not place.has(n, images)]
        made = sum(len(shards[n]) for n in missing)
        job = GenerationJob(str(place.folder.resolve()), plan.num_images, plan.batch_size, seed, plan.options)
        make: Callable[[], Worker] = partial(_worker_elsewhere, source, plan.record["weights"], job)
        if engine.name == "local":
            make = partial(GenerationWorker, pipe, job)
        del pipe
        tasks = [_task(plan, n, shards[n]) for n in missing]
        _do(make, tasks, engine, len(plan), on_progress or (lambda done, total: None))
        place.finish(shards)
    return ShardsResult(place.folder, len(plan), made, seed, len(shards))


def _do(
    make: Callable[[], Worker],
    tasks: Sequence[Task],
    engine: Engine,
    total: int,
    report: Callable[[int, int], None],
) -> None:
    done = total - sum(task["end"] - task["first"] for task in tasks)
    report(done, total)
    for result in do_tasks(make, tasks, engine):
        done += json.loads(result)["images"]
        report(done, total)


def _task(plan: BatchPlan, number: int, images: range) -> dict[str, Any]:
    """A shard to make, with its rows: they travel with it, so that no machine holds all of them."""
    first_row, last_row = images.start // plan.num_images, (images.stop - 1) // plan.num_images
    rows = [[row.subject, row.seed] for row in plan.rows[first_row : last_row + 1]]
    return {
        "shard": number,
        "first": images.start,
        "end": images.stop,
        "first_row": first_row,
        "rows": rows,
    }


@dataclass(frozen=True)
class GenerationJob:
    """What all shards have in common."""

    folder: str
    num_images: int
    batch_size: int
    seed: int
    options: Mapping[str, Any]


def _worker_elsewhere(source: ModelSource, weights: str, job: GenerationJob) -> GenerationWorker:
    return GenerationWorker(source.open_same(weights), job)


class GenerationWorker:
    """Makes shards with one model.

    Args:
        pipe: the model.
        job: what all shards have in common.
    """

    def __init__(self, pipe: Any, job: GenerationJob) -> None:
        self._pipe, self._job = pipe, job
        self._place = ShardFolder(job.folder)  # not entered: the lock is the driver's

    def __call__(self, task: Task) -> bytes:
        """Make a shard, unless a worker that died after it has made it already."""
        number, images = task["shard"], range(task["first"], task["end"])
        if not self._place.has(number, images):
            with self._place.writing(shard_name(number)) as file, without_repeated_warnings():
                write_samples(file, self._samples(task, images))
        return json.dumps({"shard": number, "images": len(images)}).encode()

    def _samples(self, task: Task, images: range) -> Iterator[tuple[str, dict[str, bytes]]]:
        job = self._job
        rows = [Row(subject, seed) for subject, seed in task["rows"]]
        pictures = list(pictures_of(rows, job.num_images, job.seed, images, task["first_row"]))
        for part in cut(len(pictures), job.batch_size):
            batch = pictures[part.start : part.stop]
            for picture, image in zip(batch, draw(self._pipe, batch, job.options).images, strict=True):
                yield key_of(picture.ordinal), {"png": _png(image), "json": _facts(picture)}


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _facts(picture: Picture) -> bytes:
    told = {"index": picture.ordinal, "row": picture.row, "j": picture.j, **picture.facts()}
    return json.dumps(told, ensure_ascii=False).encode()
