"""Kill a job on Ray again and again, and show that every image is there once, as one process makes it.

python scripts/prove_ray.py -n 2000 --shard-size 25 -o /tmp/proof

Draws captions of scenes in one process; draws them again with actors of Ray, two of which are killed
(`kill -9`) in mid-run, then the driver; starts the driver once more; compares, bit by bit. The folder must
be new. Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from visgen.data.scenes.dataset import Scenes
from visgen.data.webdataset import list_samples, read_member

KILLS = ("actor", "actor", "driver")
POLL, PATIENCE = 0.2, 3600  # seconds
STARTED = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--images", type=int, default=2000)
    parser.add_argument("-m", "--model", default="scenes-var")
    parser.add_argument("--shard-size", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    prompts = write_prompts(options.output, options.images)
    words = ["generate", "--prompts", prompts, "-m", options.model, "--seed", 0]
    words += ["--shard-size", options.shard_size, "--batch-size", options.batch_size]
    one, many = options.output / "one", options.output / "many"
    seconds = timed(lambda: finish(start([*words, "--engine", "local", "-o", one])))
    say(f"one process: {options.images} images in {seconds:.0f} s")
    on_ray = [*words, "--engine", "ray", "--workers", options.workers, "-o", many]
    shards = -(-options.images // options.shard_size)
    interrupt(on_ray, many, shards)
    before = shards_in(many)
    made = {name: (many / name).stat().st_mtime_ns for name in before}
    finish(start(on_ray))
    touched = [name for name in before if (many / name).stat().st_mtime_ns != made[name]]
    missing = shards - len(before)
    say(f"driver started again: {missing} shards of {shards} were missing, {len(touched)} were made twice")
    if touched or not same(one, many, options.images):
        sys.exit(1)
    say("proved")


def write_prompts(folder: Path, count: int) -> Path:
    """Captions of the validation split, one a line."""
    folder.mkdir(parents=True, exist_ok=True)
    path, source = folder / "prompts.jsonl", Scenes("validation", balanced=True)
    captions = source.batch(range(count)).captions or []
    path.write_text("".join(json.dumps({"prompt": caption}) + "\n" for caption in captions))
    return path


def interrupt(words: list[object], folder: Path, shards: int) -> None:
    """Start a job and kill what `KILLS` says, each as soon as some more shards are there."""
    driver = start(words)
    for number, what in enumerate(KILLS, start=1):
        goal = max(number, shards * number // (len(KILLS) + 2))
        wait(lambda goal=goal: len(shards_in(folder)) >= goal, driver)
        if what == "actor":
            wait(lambda: actors_of(driver.pid), driver)
            victim = actors_of(driver.pid)[number % len(actors_of(driver.pid))]
        else:
            victim = driver.pid
        os.kill(victim, signal.SIGKILL)
        say(f"kill -9 {what} {victim} when {len(shards_in(folder))} of {shards} shards were there")
    driver.wait()
    wait(lambda: not left_of(driver.pid))
    if (folder / "index.json").exists():
        raise SystemExit("the job ended before the driver was killed; take more images or smaller shards")


def start(words: list[object]) -> subprocess.Popen[bytes]:
    """A `visgen` command; the variable tells its descendants, whoever their parent has become."""
    environment = {**os.environ, "VISGEN_PROOF": f"{os.getpid()}"}
    return subprocess.Popen([sys.executable, "-m", "visgen", *map(str, words)], env=environment)


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0:
        raise SystemExit(f"{process.args} ended with {process.returncode}")


def wait(happened: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait for something that must happen while a process runs."""
    end = time.monotonic() + PATIENCE
    while not happened():
        if process is not None and process.poll() is not None:
            raise SystemExit(f"the job ended with {process.returncode} before it could be killed")
        if time.monotonic() > end:
            raise SystemExit("what should have happened did not")
        time.sleep(POLL)


def processes() -> dict[int, tuple[int, str]]:
    """pid → (parent, command line) of all processes."""
    command = ["ps", "-eo", "pid=,ppid=,args="]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in told.splitlines())
    return {int(row[0]): (int(row[1]), row[2] if len(row) > 2 else "") for row in rows}


def actors_of(driver: int) -> list[int]:
    """Actors that work for a driver: grandchildren, below its raylet."""
    known = processes()
    raylets = {pid for pid, (parent, _) in known.items() if parent == driver}
    return sorted(p for p, (parent, name) in known.items() if parent in raylets and "MapWorker" in name)


def left_of(driver: int) -> list[int]:
    """Processes that still have the environment of this proof, beside the driver itself."""
    mark, found = f"VISGEN_PROOF={os.getpid()}".encode(), []
    for pid in processes():
        try:
            if pid != driver and mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def shards_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tar"))


def images_in(folder: Path) -> list[tuple[int, str, str]]:
    """(index, digest of the picture, digest of its facts) of all samples of all shards."""
    found = []
    for name in shards_in(folder):
        with (folder / name).open("rb") as file:
            for sample in list_samples(folder / name):
                picture, facts = (read_member(file, sample.files[kind]) for kind in ("png", "json"))
                digests = [hashlib.sha256(content).hexdigest() for content in (picture, facts)]
                found.append((json.loads(facts)["index"], *digests))
    return found


def same(one: Path, many: Path, count: int) -> bool:
    """Whether both folders hold the images 0 … count − 1, each once, and of equal bytes."""
    first, second = images_in(one), images_in(many)
    for folder, found in ((one, first), (many, second)):
        times = Counter(index for index, _, _ in found)
        lost, twice = set(range(count)) - times.keys(), [index for index, n in times.items() if n > 1]
        say(f"{folder.name}: {len(found)} images, {len(lost)} missing, {len(twice)} twice")
        if lost or twice or len(found) != count:
            return False
    differing = [a[0] for a, b in zip(sorted(first), sorted(second), strict=True) if a != b]
    say(f"{count - len(differing)} of {count} images bit-identical")
    return not differing


def timed(work: Callable[[], None]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def say(text: str) -> None:
    print(f"{time.monotonic() - STARTED:7.1f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
