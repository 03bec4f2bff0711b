"""Who does the tasks of a job: this process, or the actors of Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visgen.errors import InputError, shown

ENGINES = ("local", "ray")
Task = Mapping[str, Any]  # JSON-ready
Worker = Callable[[Task], bytes]


@dataclass(frozen=True)
class Engine:
    """Who does the tasks.

    Attributes:
        name: "local" = this process; "ray" = actors of the cluster that `RAY_ADDRESS` names ("auto": the one
            this machine belongs to), without it of this machine.
        workers: actors of Ray at once, each with a model of its own.
        threads: CPU threads of a worker. Floats show their number in the last bits, so it belongs to a job.
        gpus: of an actor, a fraction shares one.

    Raises:
        InputError: another name, or a number out of range.
    """

    name: str = "local"
    workers: int = 1
    threads: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise InputError(f"engine {shown(self.name)} must be {' or '.join(ENGINES)}")
        for name in ("workers", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.name == "local" and self.workers != 1:
            raise InputError(f"workers={self.workers}: the local engine is one process; use engine ray")


def do_tasks(make: Callable[[], Worker], tasks: Sequence[Task], engine: Engine) -> Iterator[bytes]:
    """Do all tasks; results come in the order of the tasks.

    A task may be done again, by another worker, when one died: doing it twice must leave what doing it once
    leaves.

    Args:
        make: makes a worker; called in each process that works. For Ray it is sent there, so it is a function
            of a module, or a `partial` of one.
        tasks: JSON-ready.
        engine: who does them.

    Raises:
        InputError: as a worker raises it, and Ray not installed.
    """
    if not tasks:
        return
    if engine.name == "ray":
        from visgen.distributed.on_ray import do_on_ray

        yield from do_on_ray(make, tasks, engine)
        return
    from visgen.nn.threads import torch_threads

    with torch_threads(engine.threads):
        worker = make()
        for task in tasks:
            yield worker(task)
