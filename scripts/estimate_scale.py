"""Measure a model with one and with two processes, and say what 50,000 and 10 million images take.

python scripts/estimate_scale.py -m scenes-var -n 64

Each process makes whole shards (`visgen generate --engine local`) and then the tokens of its own pictures
(`visgen tokenize --engine local`), one thread each, after one shard that does not count; loading is left out.
Two processes start together and the slower one is timed. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visgen.evaluation.records import versions

JOBS = (50_000, 10_000_000)
PROCESSES = (1, 2)
PATIENCE = 3600  # seconds that a process waits for the other
start_line: Any = None


@dataclass(frozen=True)
class Rate:
    """What was measured: `images_per_second` of all processes together, `bytes_per_image` on disk."""

    work: str
    processes: int
    images_per_second: float
    bytes_per_image: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", default="scenes-var")
    parser.add_argument("-n", "--images", type=int, default=64, help="timed images of each process")
    parser.add_argument("--batch-size", type=int, default=16, help="of a micro-batch, and to warm up")
    parser.add_argument("--workers", type=int, default=100, help="of the estimate; the rate of two is scaled")
    options = parser.parse_args()
    rates = [rate for count in PROCESSES for rate in measured(options, count)]
    show(rates, options.workers)
    facts = {"model": options.model, "images": options.images, "batch_size": options.batch_size}
    told = {"schema": 1, "bench": "scale", **facts, "device": "cpu", "dtype": "float32", "threads": 1}
    print(json.dumps({**told, "versions": versions(), "rows": [asdict(rate) for rate in rates]}))


def measured(options: argparse.Namespace, count: int) -> list[Rate]:
    """Rates of `count` processes that run together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count, timeout=PATIENCE)
    with (
        tempfile.TemporaryDirectory() as root,
        ProcessPoolExecutor(count, context, initializer=meet_at, initargs=(barrier,)) as pool,
    ):
        asked = (options.model, options.images, options.batch_size)
        found = [one.result() for one in [pool.submit(work, f"{root}/{n}", *asked) for n in range(count)]]
    rates = []
    for name in found[0]:
        slowest = max(one[name][0] for one in found)
        rates.append(Rate(name, count, count * options.images / slowest, found[0][name][1]))
    return rates


def meet_at(barrier: Any) -> None:
    """Give a process what all of them wait at."""
    global start_line
    start_line = barrier


def work(root: str, model: str, images: int, size: int) -> dict[str, tuple[float, float]]:
    """In one process: (seconds, bytes of an image) by kind of work."""
    import torch

    torch.set_num_threads(1)
    found = {}
    for name, prepare in (("generate", prepare_generation), ("tokenize", prepare_tokens)):
        shards = [range(size), range(size, size + images)]  # to warm up; to measure
        run, folder = prepare(Path(root), model, shards, size)
        run(0)
        start_line.wait()
        start = time.perf_counter()
        run(1)
        found[name] = (time.perf_counter() - start, bytes_of(folder) / images)
    return found


def bytes_of(folder: Path) -> int:
    """Size of the second shard, without what fills up a tar to a multiple of 10 kB."""
    path = sorted(path for path in folder.iterdir() if path.suffix in (".tar", ".safetensors"))[1]
    if path.suffix == ".safetensors":
        return path.stat().st_size
    from visgen.data.webdataset import list_samples

    end = max(sum(place) for sample in list_samples(path) for place in sample.files.values())
    return -(-end // 512) * 512


def prepare_generation(
    root: Path, model: str, shards: list[range], size: int
) -> tuple[Callable[[int], Any], Path]:
    from visgen.data.scenes.dataset import Scenes
    from visgen.distributed.generation import GenerationJob, GenerationWorker
    from visgen.distributed.models import ModelSource

    folder = root / "images"
    folder.mkdir(parents=True)
    captions = Scenes("validation", balanced=True).batch(range(shards[-1].stop)).captions or []
    job = GenerationJob(str(folder), 1, size, 0, {"batch_size": size, "fixed_batch": True})
    worker = GenerationWorker(ModelSource.of(model, "text-to-image").open("cpu"), job)

    def run(number: int) -> None:
        part = shards[number]
        rows = [[captions[image], None] for image in part]
        worker(
            {"shard": number, "first": part.start, "end": part.stop, "first_row": part.start, "rows": rows}
        )

    return run, folder


def prepare_tokens(
    root: Path, model: str, shards: list[range], size: int
) -> tuple[Callable[[int], Any], Path]:
    from visgen.data.image_set import open_image_set
    from visgen.distributed.models import ModelSource
    from visgen.distributed.tokenization import TokenJob, TokenWorker
    from visgen.pipelines.tokenize import origin_of

    folder = root / "tokens"
    folder.mkdir()
    pipe = ModelSource.of(model, "reconstruct").open("cpu")
    worker = TokenWorker(pipe, TokenJob(str(folder), size, 1, {}, asdict(origin_of(pipe))))
    pictures = open_image_set(root / "images" / "*.tar")
    return lambda number: worker({"shard": number, **pictures.piece(shards[number])}), folder


def show(rates: list[Rate], workers: int) -> None:
    """Rates, and for each job the hours of one process, of two, and of many at the rate of one of two."""
    print(f"{'work':10} {'processes':>9} {'images/s':>9} {'bytes/image':>12}")
    for rate in rates:
        told = f"{rate.images_per_second:9.3f} {rate.bytes_per_image:12.0f}"
        print(f"{rate.work:10} {rate.processes:9} {told}")
    many = f"{workers} workers"
    print(f"\n{'work':10} {'images':>10} {'1 process':>12} {'2 processes':>12} {many:>12} {'GB':>9}")
    for name in dict.fromkeys(rate.work for rate in rates):
        one, two = (rate for rate in rates if rate.work == name)
        for images in JOBS:
            seconds = (images / one.images_per_second, images / two.images_per_second)
            hours = [s / 3600 for s in (*seconds, 2 * seconds[1] / workers)]
            told = " ".join(f"{value:10.2f} h" for value in hours)
            print(f"{name:10} {images:10,} {told} {images * two.bytes_per_image / 1e9:9.2f}")
    print()


if __name__ == "__main__":
    main()
