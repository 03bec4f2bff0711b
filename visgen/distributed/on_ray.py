"""Tasks on Ray Data: `map_batches` over a pool of actors, each of which makes its worker once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from visgen.distributed.engines import Engine, Task, Worker
from visgen.errors import InputError

ADDRESS = "RAY_ADDRESS"
MOST_BLOCKS = 10_000  # of the list of tasks; Ray's driver holds a few kB for each


class Actor:
    """One worker in an actor. What a user can mend (`InputError`) is handed back beside the results, for Ray
    would add its own words to it. Other errors end the job at the actor's first task."""

    def __init__(self, make: Callable[[], Worker], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._error: Exception | None = None
        try:
            self._worker = make()
        except Exception as error:  # raised here, Ray would take it for a death of the actor
            self._error = error

    def __call__(self, batch: Any) -> Any:
        """A table with a column "task" of JSON → one with columns "result" and "error", one of them null."""
        import pyarrow

        rows = [self._row(json.loads(text)) for text in batch["task"].to_pylist()]
        kinds = {"result": pyarrow.large_binary(), "error": pyarrow.string()}
        return pyarrow.table({n: pyarrow.array([row[n] for row in rows], kind) for n, kind in kinds.items()})

    def _row(self, task: Task) -> dict[str, Any]:
        try:
            if self._error is not None:
                raise self._error
            return {"result": self._worker(task), "error": None}
        except InputError as error:
            return {"result": None, "error": str(error)}


def do_on_ray(make: Callable[[], Worker], tasks: Sequence[Task], engine: Engine) -> Iterator[bytes]:
    """Results in the order of the tasks; see `engines.do_tasks`.

    Ray Data restarts actors that died and repeats the tasks they held, both without limit (its defaults,
    `max_restarts` and `max_task_retries` of −1).

    Raises:
        InputError: Ray is not installed or its cluster not there, or what a worker raised.
    """
    with cluster(engine) as ray:
        for row in _dataset(ray, make, tasks, engine).iter_rows():
            if row["error"] is not None:
                raise InputError(row["error"])
            yield row["result"]


def _dataset(ray: Any, make: Callable[[], Worker], tasks: Sequence[Task], engine: Engine) -> Any:
    items = [{"task": json.dumps(task)} for task in tasks]
    workers = min(engine.workers, len(items))
    data = ray.data.from_items(items, override_num_blocks=min(len(items), MOST_BLOCKS))
    data.context.print_on_execution_start = False
    data.context.enable_progress_bars = False
    data.context.execution_options.preserve_order = True
    return data.map_batches(
        Actor,
        fn_constructor_args=(make, engine.threads),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=engine.threads,
        num_gpus=engine.gpus or None,
    )


@contextmanager
def cluster(engine: Engine) -> Iterator[Any]:
    """Ray, connected: as it was found, to `RAY_ADDRESS`, or to processes of this machine that end with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unasked
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ warns of what Ray Data itself does
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # Ray's default to come, without a warning
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise InputError(f"engine ray needs {error.name}: pip install 'visgen[ray]'") from error
    _quieten()
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, engine)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, engine: Engine) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get(ADDRESS)
    if not address:
        cpus = engine.workers * engine.threads
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **options)
        return
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{ADDRESS}={address!r} is no cluster that answers ({error}); unset it for this machine alone"
        ) from error


def _quieten() -> None:
    """Keep Ray Data's lines off the terminal; its files below /tmp/ray/session_latest/logs hold them."""
    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)
