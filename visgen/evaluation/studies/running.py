"""Running a study: each unfinished cell is one call of `evaluate`, and one that fails holds up no other."""

from __future__ import annotations

import datetime
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from visgen.errors import InputError
from visgen.evaluation.benchmark.machine import device_name
from visgen.evaluation.passes import Pass
from visgen.evaluation.plan import Plan
from visgen.evaluation.real import RealSide
from visgen.evaluation.records import versions
from visgen.evaluation.run import evaluate
from visgen.evaluation.setting import Memory, Setting
from visgen.evaluation.statistics_file import save_statistics
from visgen.evaluation.studies.cells import Cell, cells_of
from visgen.evaluation.studies.costs import WatchedSubject
from visgen.evaluation.studies.folder import (
    DONE,
    FAILED,
    IMAGES,
    KIND,
    REFERENCES,
    SAMPLES,
    SCHEMA,
    Record,
    StudyFolder,
)
from visgen.evaluation.studies.kept import keep
from visgen.evaluation.studies.keys import Keys, plain_options
from visgen.evaluation.studies.samples import strip
from visgen.evaluation.studies.study import Study
from visgen.evaluation.subjects import Subject
from visgen.evaluation.watching import Watcher
from visgen.nn.threads import torch_threads
from visgen.processes import Processes


@dataclass
class Outcome:
    """What became of a study.

    Attributes:
        cells: all of them, in order.
        records: name of the cell → its record; those without one are missing.
        ran: names of the cells that were evaluated now, failed ones among them.
    """

    cells: Sequence[Cell]
    records: dict[str, Record] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Record]:
        """Records of cells that failed."""
        return [record for record in self.records.values() if record["status"] == FAILED]


def run_study(study: Study, folder: StudyFolder, say: Callable[[str], None]) -> Outcome:
    """Evaluate every cell of a study that its folder does not hold as it would be now.

    Args:
        study: what to run.
        folder: entered.
        say: called with a line about each cell.

    Raises:
        InputError: several processes, cells of one name, or a folder with something else in a record's place.
    """
    if Processes().count > 1:
        raise InputError("a study runs in one process; start it without accelerate launch")
    memory, outcome = Memory(), Outcome(cells_of(study))
    keys, times = Keys(memory, study.samples), list[float]()
    with torch_threads(study.threads), each_warning_once():
        for number, cell in enumerate(outcome.cells, 1):
            start, title = time.perf_counter(), f"[{number}/{len(outcome.cells)}] {cell.kind} {cell.label}"
            announce = partial(say, title + _left(times, len(outcome.cells) - number + 1))
            record, fresh = _cell(cell, folder, keys, memory, study.samples, announce)
            outcome.records[cell.name] = record
            if fresh:
                outcome.ran.append(cell.name)
                times.append(time.perf_counter() - start)
            if record["status"] == FAILED:
                say(f"{title}: failed: {record['reason']}")
    return outcome


def _left(times: Sequence[float], cells: int) -> str:
    """Words on the time that so many cells may take, at the pace of those before."""
    if not times:
        return ""
    minutes = cells * sum(times) / len(times) / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


def stored(study: Study, folder: StudyFolder) -> Outcome:
    """What the folder holds of a study: records of the same options, whatever the machine; loads nothing."""
    outcome = Outcome(cells_of(study))
    for cell in outcome.cells:
        record = folder.record(cell.name)
        if record is not None and record["asked"] == plain_options(cell):
            outcome.records[cell.name] = record
    return outcome


@contextmanager
def each_warning_once() -> Iterator[None]:
    """What one cell warned of, the next ones do not say again."""
    with warnings.catch_warnings():
        show, seen = warnings.showwarning, set[str]()

        def show_new(message: Warning | str, *place: Any) -> None:
            if str(message) not in seen:
                seen.add(str(message))
                show(message, *place)

        warnings.showwarning = show_new  # type: ignore[assignment]
        yield


def _cell(
    cell: Cell, folder: StudyFolder, keys: Keys, memory: Memory, samples: int, announce: Callable[[], None]
) -> tuple[Record, bool]:
    """The record of a cell, and whether it was made now."""
    key, found = None, folder.record(cell.name)
    try:
        key = keys.of(cell)
        if found is not None and found["status"] == DONE and found["key"] == key:
            return found, False
        announce()
        body = _evaluated(cell, folder, memory, samples)
    except Exception as error:  # whatever it was: the other cells are worth having
        body = {"status": FAILED, "reason": _reason(error), "error": type(error).__name__}
        body |= {"versions": versions(), "count": cell.options.count}
    head = {"schema": SCHEMA, "kind": KIND, "status": DONE, "key": key, "cell": cell.facts()}
    record = head | {"asked": plain_options(cell), "finished": _now()} | body
    folder.write_record(record)
    return record, True


def _evaluated(cell: Cell, folder: StudyFolder, memory: Memory, samples: int) -> Record:
    """The result of `evaluate`, and what it cost; the files beside it are written first."""
    start, watcher = time.perf_counter(), StudyWatcher(cell, folder, samples)
    (record,) = evaluate([cell.model], cell.options, memory=memory, watcher=watcher)
    for name in ("schema", "kind"):
        record.pop(name, None)
    return record | {"cell_seconds": round(time.perf_counter() - start, 3)}


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


class StudyWatcher(Watcher):
    """Writes what a cell has beside its record: rows of its images, samples, the reference's statistics."""

    def __init__(self, cell: Cell, folder: StudyFolder, samples: int) -> None:
        self._cell, self._folder = cell, folder
        self._count = min(samples, cell.options.count or samples)

    def subject(self, subject: Subject) -> Subject:
        """The subject, its costs noted."""
        self._watched = WatchedSubject(subject, self._count)
        return self._watched

    def judged(
        self, plan: Plan, setting: Setting, real: RealSide | None, made: Pass | None, pairs: Pass | None
    ) -> dict[str, Any]:
        """Names of the files, costs, and the device's name."""
        name = f"{IMAGES}/{self._cell.name}.safetensors"
        self._folder.replace(name, keep(made, pairs).to_bytes())
        return {
            "cost": self._watched.costs(),
            "device_name": device_name(torch.device(self._watched.device or "cpu")),
            "images": name,
            "samples": self._samples(),
            "statistics": self._statistics(setting, real),
        }

    def _samples(self) -> dict[str, Any] | None:
        """Strips of the first images; of reconstructions with the originals, which all cells share."""
        seen, place = self._watched, f"{SAMPLES}/{self._cell.name}"
        pictures = seen.drawn or seen.rebuilt
        if not pictures:
            return None
        self._folder.replace(f"{place}.png", strip(pictures))
        told: dict[str, Any] = {"file": f"{place}.png", "count": len(pictures)}
        if seen.drawn:
            return told | {"subjects": seen.subjects}
        self._folder.replace(f"{place}.originals.png", strip(seen.originals))
        return told | {"originals": f"{place}.originals.png"}

    def _statistics(self, setting: Setting, real: RealSide | None) -> str | None:
        """The reference's mean and covariance, once for all cells."""
        if real is None or real.statistics is None:
            return None
        weights = setting.extractor.weights_sha256
        name = f"{REFERENCES}/{real.digest[:16]}-{setting.protocol.name}-{weights[:8]}.npz"
        path = self._folder.folder / name
        if not path.exists():
            origin = {"reference": real.name, "images_sha256": real.digest, "weights_sha256": weights}
            save_statistics(path, real.statistics, setting.protocol, **origin)
        return name
