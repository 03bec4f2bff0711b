"""Batches in a fixed order, prepared ahead by one thread. Step s is a pure function of (seed, s): no state to
save."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch

from visgen.data import SOURCES
from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.nn.noise import image_seed
from visgen.schema import read_arguments
from visgen.tokenizers.tokens import ImageTokens

_DEPTH = 4  # batches ahead of the loop


def build_source(options: dict[str, Any]) -> Any:
    """The data source of a recipe's `data` section: `source` names it, the rest goes to its constructor.

    Raises:
        InputError: unknown source or option, or a value of another type.
    """
    cls = SOURCES.load(options["source"])
    arguments = {key: value for key, value in options.items() if key != "source"}
    return cls(**read_arguments(cls, arguments, "data"))


def source_length(source: Any) -> int | None:
    """Number of images, None when endless."""
    try:
        length = len(source)
    except TypeError:
        return None
    if length < 1:
        raise InputError(f"the data source {type(source).__name__} is empty; point it at some images")
    return length


class BatchPlan:
    """Which images a process sees in each step.

    An endless source is read in order. A finite one is permuted anew each epoch by a generator seeded with
    (seed, epoch); a batch runs over the end of an epoch into the next, so that no image is left out.

    Args:
        length: images of the source, None = endless.
        batch_size: images per step over all processes; a multiple of `processes`.
        rank: this process.
    """

    def __init__(
        self, length: int | None, batch_size: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        if batch_size % processes:
            raise InputError(
                f"batch_size={batch_size} does not split over {processes} processes; use a multiple"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        share = batch_size // processes
        self._rows = range(rank * share, (rank + 1) * share)
        self._order: tuple[int, torch.Tensor] | None = None

    def indices(self, step: int) -> list[tuple[int, list[int]]]:
        """(epoch, indices) parts of this process's batch at `step`, most often one."""
        places = [step * self.batch_size + row for row in self._rows]
        if self.length is None:
            return [(0, places)]
        parts: dict[int, list[int]] = {}
        for place in places:
            epoch, offset = divmod(place, self.length)
            parts.setdefault(epoch, []).append(int(self._permutation(epoch)[offset]))
        return list(parts.items())

    def _permutation(self, epoch: int) -> torch.Tensor:
        order = self._order  # read once: the loop and the stream's thread share the plan
        if order is None or order[0] != epoch:
            generator = torch.Generator().manual_seed(image_seed(self.seed, epoch))
            order = self._order = (epoch, torch.randperm(self.length, generator=generator))
        return order[1]


def load_batch(source: Any, plan: BatchPlan, step: int) -> Batch:
    """The batch of a step, in the plan's order."""
    parts = [source.batch(indices, epoch=epoch) for epoch, indices in plan.indices(step)]
    return parts[0] if len(parts) == 1 else _concatenate(parts)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its images and tokens on `device`."""
    tokens = None if batch.tokens is None else batch.tokens.to(device)
    return dataclasses.replace(batch, images=batch.images.to(device, non_blocking=True), tokens=tokens)


class BatchStream:
    """Iterator of (step, batch) from `start` to `stop`, one background thread ahead. Close it when done.

    The thread gets one torch thread: two OpenMP teams on the same cores slow each other down several times.
    """

    def __init__(self, source: Any, plan: BatchPlan, start: int, stop: int, pin_memory: bool = False) -> None:
        self._source, self._plan, self._steps, self._pin = source, plan, range(start, stop), pin_memory
        self._queue: queue.Queue[Any] = queue.Queue(_DEPTH)
        self._closed, started = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(started,), name="visgen-batches", daemon=True
        )
        threads = torch.get_num_threads()
        self._thread.start()
        started.wait()
        torch.set_num_threads(threads)  # the OpenMP count is per thread, MKL's is global: take it back

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        for step in self._steps:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            yield step, item

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._closed.set()
        while self._thread.is_alive():
            while not self._queue.empty():  # a full queue would hold the thread
                self._queue.get_nowait()
            self._thread.join(timeout=0.05)

    def _work(self, started: threading.Event) -> None:
        torch.set_num_threads(1)
        started.set()
        try:
            for step in self._steps:
                batch = load_batch(self._source, self._plan, step)
                if self._pin:
                    batch = dataclasses.replace(batch, images=batch.images.pin_memory())
                self._queue.put(batch)
                if self._closed.is_set():
                    return
        except BaseException as error:
            self._queue.put(error)


def _concatenate(parts: list[Batch]) -> Batch:
    joined: dict[str, Any] = {}
    for field in dataclasses.fields(Batch):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], torch.Tensor):
            joined[field.name] = torch.cat(values)
        elif isinstance(values[0], ImageTokens):
            joined[field.name] = ImageTokens.cat(values)
        elif values[0] is not None:
            joined[field.name] = [item for value in values for item in value]
    return Batch(**joined)
