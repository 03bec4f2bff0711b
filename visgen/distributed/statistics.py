"""Mean and covariance of the features of any number of images, for Fréchet distances."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from visgen.data.image_set import open_image_set, read_piece
from visgen.data.images import resize_center_crop
from visgen.distributed.engines import Engine, Task, Worker, do_tasks
from visgen.distributed.shard_folder import cut
from visgen.errors import InputError
from visgen.evaluation.digests import image_digests
from visgen.evaluation.extractors import ExtractorOptions, FeatureExtractor, load_extractor
from visgen.evaluation.protocols import EvaluationProtocol, get_protocol
from visgen.evaluation.statistics import FeatureStatistics, FeatureSums
from visgen.pipelines.options import positive

PART_SIZE = 1024


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """What `statistics_file.save_statistics` needs.

    Attributes:
        statistics: mean and covariance, in float64.
        protocol: they were made under.
        images_sha256: digest of the images as they were seen, in order.
        weights_sha256: digest of the feature extractor.
    """

    statistics: FeatureStatistics
    protocol: EvaluationProtocol
    images_sha256: str
    weights_sha256: str


def image_statistics(
    source: str | os.PathLike[str],
    protocol: str,
    *,
    image_size: int | None = None,
    engine: Engine | None = None,
    options: ExtractorOptions | None = None,
    batch_size: int = 32,
    part_size: int = PART_SIZE,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageStatistics:
    """Statistics of the features of all images of a folder or a WebDataset.

    Sums of parts, in float64, are added in the order of the parts, so that the result does not depend on the
    engine or the number of workers. They are not kept: a job that was stopped starts anew.

    Args:
        source: a folder of images, "*.tar" or "{000000..000009}.tar", seen by all workers.
        protocol: a name of `PROTOCOLS`.
        image_size: side that images are resized (Lanczos) and cropped to before the extractor sees them, that
            of the images they will be compared with; None = the protocol's own.
        engine: who looks; None = this process.
        options: of the extractor.
        batch_size: images at once.
        part_size: images of a task; a part is sent back as D² numbers of 8 bytes (2048 dimensions: 34 MB).
        on_progress: called with (images seen, images in all) at the start and after each part.

    Raises:
        InputError: fewer than two images, an unreadable one, a size that does not fit the protocol, or
            weights that are nowhere, or others on another machine.
    """
    engine, named = engine or Engine(), get_protocol(protocol)
    size = _size(named, image_size)
    images = open_image_set(source)
    if len(images) < 2:
        raise InputError(f"source {os.fspath(source)!r} holds 1 image; a covariance needs two or more")
    parts = cut(len(images), positive("part_size", part_size))
    job = StatisticsJob(named.name, size, positive("batch_size", batch_size), options or ExtractorOptions())
    make: Callable[[], Worker] = partial(_make_worker, job)
    report, whole = on_progress or (lambda done, total: None), _Whole()
    report(0, len(images))
    for result in do_tasks(make, [images.piece(part) for part in parts], engine):
        whole.add(result)
        report(whole.count, len(images))
    if whole.sums is None or whole.count != len(images):
        raise RuntimeError(f"{whole.count} images were seen of {len(images)}")
    return ImageStatistics(whole.sums.statistics(), named, whole.digest.hexdigest(), whole.weights)


def _size(protocol: EvaluationProtocol, image_size: int | None) -> int:
    size = protocol.image_size if image_size is None else positive("image_size", image_size)
    if size is None:
        raise InputError(
            f"image_size is missing: protocol {protocol.name} takes any; give that of the images to compare"
        )
    if protocol.image_size not in (None, size):
        raise InputError(f"image_size={size}: protocol {protocol.name} takes {protocol.image_size} only")
    return size


@dataclass(frozen=True)
class StatisticsJob:
    """What all parts have in common."""

    protocol: str
    size: int
    batch_size: int
    options: ExtractorOptions


class _Whole:
    """Parts, added as they come."""

    def __init__(self) -> None:
        self.sums: FeatureSums | None = None
        self.count, self.weights, self.digest = 0, "", hashlib.sha256()

    def add(self, content: bytes) -> None:
        with np.load(io.BytesIO(content), allow_pickle=False) as part:
            sums = FeatureSums(int(part["count"]), part["total"], part["products"])
            weights = str(part["weights"])
            self.digest.update(part["digests"].tobytes())
        if self.weights not in ("", weights):
            raise InputError("the feature extractor has other weights on another machine; give all the same")
        self.weights, self.count = weights, self.count + sums.count
        self.sums = sums if self.sums is None else self.sums + sums


def _make_worker(job: StatisticsJob) -> StatisticsWorker:
    return StatisticsWorker(job, load_extractor(get_protocol(job.protocol), job.options))


class StatisticsWorker:
    """Sums up the features of parts.

    Args:
        job: what all parts have in common.
        extractor: of the job's protocol.
    """

    def __init__(self, job: StatisticsJob, extractor: FeatureExtractor) -> None:
        self._job, self._extractor = job, extractor

    def __call__(self, task: Task) -> bytes:
        """Count, sums, digests of the images and of the weights, as a `.npz`."""
        sums, digests = None, []
        for batch in self._batches(task):
            pixels = torch.stack([_pixels(image, self._job.size) for image in batch])
            part = FeatureSums.of(self._extractor(pixels).features)
            sums = part if sums is None else sums + part
            digests.append(image_digests(pixels).numpy())
        assert sums is not None, "a task holds an image or more"
        file = io.BytesIO()
        np.savez(
            file,
            count=np.int64(sums.count),
            total=sums.total,
            products=sums.products,
            digests=np.concatenate(digests),
            weights=np.str_(self._extractor.weights_sha256),
        )
        return file.getvalue()

    def _batches(self, task: Task) -> Iterator[list[Image.Image]]:
        batch: list[Any] = []
        for example in read_piece(task):
            batch.append(example.image)
            if len(batch) == self._job.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch


def _pixels(image: Image.Image, size: int) -> torch.Tensor:
    """uint8 (3, size, size), as references of an evaluation are seen."""
    return torch.from_numpy(np.array(resize_center_crop(image, size))).permute(2, 0, 1)
