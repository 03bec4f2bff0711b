"""A folder of images or a WebDataset into token shards, by one process or many."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from visgen.data.image_set import Example, ImageSet, open_image_set, read_piece
from visgen.distributed.engines import Engine, Task, Worker, do_tasks
from visgen.distributed.models import ModelSource
from visgen.distributed.shard_folder import cut
from visgen.pipelines.options import positive
from visgen.pipelines.token_folder import TokenFolder
from visgen.pipelines.token_shards import TokenOrigin
from visgen.pipelines.tokenize import TokenizeResult, encode_pictures, finished, origin_of
from visgen.tokenizers.tokens import ImageTokens


def tokenize_images(
    model: str,
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    engine: Engine | None = None,
    num_tokens: int | None = None,
    max_error: float | None = None,
    batch_size: int = 16,
    shard_size: int = 512,
    dtype: str | None = None,
    device: str | None = None,
    offline: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenizeResult:
    """Write the tokens of images as shards and an index, as `tokenize_folder` does, and of a WebDataset too.

    The images of a WebDataset are named by their keys; their captions and labels are kept in the shards where
    all images of a shard have them. A folder that one engine began, another may finish.

    Args:
        model: what `visgen.load` takes; a folder must be there on every machine.
        source: a folder of images, "*.tar" or "{000000..000009}.tar", seen by all workers.
        folder: made if missing, on a file system that all workers share.
        engine: who encodes; None = this process.
        num_tokens, max_error: knobs, see `ReconstructPipeline`.
        batch_size: images read, and elsewhere than on a CPU encoded, at once.
        shard_size: images of a shard.
        dtype, device, offline: as for `visgen.load`.
        on_progress: called with (images there, images in all) at the start and after each shard.

    Raises:
        InputError: no images, an unreadable one, a bad argument, other weights on another machine, or a
            folder that holds something else.
    """
    engine = engine or Engine()
    size, per_shard = positive("batch_size", batch_size), positive("shard_size", shard_size)
    where = ModelSource.of(model, "reconstruct", dtype, device, offline)
    pipe = where.open(device if engine.name == "local" else "cpu")
    knobs = pipe.checked_knobs(num_tokens, max_error)
    images, origin = open_image_set(source), origin_of(pipe, **knobs)
    on_cpu = device is None or device == "cpu"
    job = TokenJob(os.path.abspath(folder), size, 1 if on_cpu else size, knobs, asdict(origin))
    record = {"source": images.source, "shard_size": per_shard, "batch_size": job.rows}
    shards, report = cut(len(images), per_shard), on_progress or (lambda done, total: None)
    with TokenFolder(folder) as place:
        place.claim(origin, record)
        missing = [n for n, part in enumerate(shards) if not place.has(n, _names(images, part), origin)]
        start, made = time.perf_counter(), sum(len(shards[n]) for n in missing)
        make: Callable[[], Worker] = partial(_worker_elsewhere, where, origin.weights, job)
        if engine.name == "local":
            make = partial(TokenWorker, pipe, job)
        tasks = [{"shard": n, **images.piece(shards[n])} for n in missing]
        report(len(images) - made, len(images))
        done = len(images) - made
        for result in do_tasks(make, tasks, engine):
            done += json.loads(result)["images"]
            report(done, len(images))
        return finished(place, len(shards), pipe.tokenizer, made, time.perf_counter() - start)


def _names(images: ImageSet, part: range) -> list[str]:
    return images.names[part.start : part.stop]


Known = tuple[str, str | None, int | None]  # name, caption and label of an image


@dataclass(frozen=True)
class TokenJob:
    """What all shards have in common; `rows` images are encoded at once, `batch_size` are read."""

    folder: str
    batch_size: int
    rows: int
    knobs: dict[str, Any]
    origin: dict[str, Any]


def _worker_elsewhere(where: ModelSource, weights: str, job: TokenJob) -> TokenWorker:
    pipe = where.open_same(weights, of=lambda pipe: origin_of(pipe).weights)
    return TokenWorker(pipe, job)


class TokenWorker:
    """Makes shards with one tokenizer.

    Args:
        pipe: with the tokenizer.
        job: what all shards have in common.
    """

    def __init__(self, pipe: Any, job: TokenJob) -> None:
        self._pipe, self._job = pipe, job
        self._place = TokenFolder(job.folder)  # not entered: the lock is the driver's
        self._origin = TokenOrigin(**job.origin)

    def __call__(self, task: Task) -> bytes:
        """Make a shard; doing it again writes the same."""
        job, parts = self._job, []
        batch: list[Example] = []
        known: list[Known] = []
        for example in read_piece(task):
            batch.append(example)
            if len(batch) == job.batch_size:
                parts.append(self._encode(batch, known))
                batch = []
        if batch:
            parts.append(self._encode(batch, known))
        names = [name for name, _, _ in known]
        self._place.write(task["shard"], names, ImageTokens.cat(parts), self._origin, **_columns(known))
        return json.dumps({"shard": task["shard"], "images": len(names)}).encode()

    def _encode(self, batch: list[Example], known: list[Known]) -> ImageTokens:
        known += [(one.name, one.caption, one.label) for one in batch]
        return encode_pictures([one.image for one in batch], self._pipe, self._job.knobs, self._job.rows)


def _columns(known: list[Known]) -> dict[str, Any]:
    """Captions and labels, each where all images have one."""
    columns: dict[str, list[Any]] = {
        "captions": [caption for _, caption, _ in known],
        "labels": [label for _, _, label in known],
    }
    return {name: values for name, values in columns.items() if None not in values}
