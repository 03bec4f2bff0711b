"""What changed between two folders of results, cell by cell: in what was asked, and in the scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from visgen.errors import InputError, shown
from visgen.evaluation.protocols import PROTOCOLS
from visgen.evaluation.records import KIND as EVALUATION
from visgen.evaluation.records import check_comparable, read_results
from visgen.evaluation.statistics import FeatureStatistics
from visgen.evaluation.statistics_file import load_statistics
from visgen.evaluation.studies.folder import CELLS, DONE, KIND, STUDY_NAME, Record, check_record
from visgen.evaluation.studies.kept import read_kept
from visgen.evaluation.studies.significance import Difference, Side, difference

SCHEMA = 1
# What a record says of its making; scores, files, times and digests that follow from it are left out.
COMPARED = ("asked", "config", "subject", "protocol", "extractor_sha256", "reference", "versions")
ALSO = ("count", "device_name", "dtype", "threads", "processes")
# Costs vary by themselves from run to run; these are counted, not timed.
COUNTED = ("passes", "draft_passes", "nfe", "tokens")
FREE = ("subject.name", "config.reference", "config.count")  # they stand under other names too


@dataclass(frozen=True)
class CellDiff:
    """One cell in both folders.

    Attributes:
        name: of the cell.
        changes: dotted name → (before, after) of what was asked and how it was made.
        metrics: name → {"a", "b", "value", "interval", "significant", "method", "better"}, value = b − a.
        cost: name → (before, after).
        note: why scores are not compared, or not all.
    """

    name: str
    changes: dict[str, tuple[Any, Any]]
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    cost: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    note: str = ""

    @property
    def significant(self) -> bool:
        """Whether some score changed by more than chance."""
        return any(one["significant"] for one in self.metrics.values())


@dataclass(frozen=True)
class StudyDiff:
    """Two folders.

    Attributes:
        a, b: their names.
        cells: in both.
        only_a, only_b: names of cells in one of them.
    """

    a: str
    b: str
    cells: tuple[CellDiff, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"schema": SCHEMA, "kind": "visgen-study-diff", **asdict(self)}


def diff_folders(a: str | Path, b: str | Path) -> StudyDiff:
    """Compare two folders: of studies, or of results of `visgen evaluate -o`.

    Raises:
        InputError: a folder without records, or a broken one.
    """
    roots = _root(Path(a)), _root(Path(b))
    first, second = map(read_folder, roots)
    both = [name for name in first if name in second]
    cells = tuple(diff_records(name, first[name], second[name], *roots) for name in both)
    only = [tuple(n for n in one if n not in other) for one, other in ((first, second), (second, first))]
    return StudyDiff(str(a), str(b), cells, only[0], only[1])


def _root(folder: Path) -> Path:
    """The folder of a study whose records' folder was given."""
    return folder.parent if folder.name == CELLS and (folder.parent / STUDY_NAME).exists() else folder


def read_folder(folder: Path) -> dict[str, Record]:
    """Cell → record of a folder of a study, or of result files; results of one model are told by file.

    Raises:
        InputError: no folder, nothing in it, or a broken file.
    """
    if not folder.is_dir():
        raise InputError(f"folder {shown(str(folder))} does not exist; give one of `visgen compare`")
    place = folder / CELLS if (folder / CELLS).is_dir() else folder
    found: dict[str, Record] = {}
    for path in sorted(place.glob("*.json")):
        for name, record in _records(path):
            found[name] = record
    if not found:
        raise InputError(f"folder {shown(str(folder))} holds no records; give one of `visgen compare`")
    return found


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no readable record ({error}); remove it") from None
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind == EVALUATION:
        for record in read_results(path):
            yield f"{path.stem}/{record['subject']['name']}", {"status": DONE, **record}
    elif kind == KIND:
        check_record(content, path)
        yield content["cell"]["name"], content


def diff_records(name: str, a: Record, b: Record, root_a: Path, root_b: Path) -> CellDiff:
    """Compare two records of a cell; `root_a` and `root_b` are where their files lie."""
    changes = _changes(a, b)
    failed = [side for side, record in (("before", a), ("after", b)) if record["status"] != DONE]
    if failed:
        return CellDiff(name, changes, note=f"failed {' and '.join(failed)}")
    try:
        check_comparable(b, a)
    except InputError as error:
        return CellDiff(name, changes, note=str(error))
    paired = _paired(a, b)
    sides = {metric: (_side(a, metric, root_a), _side(b, metric, root_b)) for metric in _shared(a, b)}
    metrics = {m: _entry(m, one, other, paired) for m, (one, other) in sides.items()}
    note = "" if paired else "other seeds, prompts or originals: compared by intervals"
    return CellDiff(name, changes, metrics, _costs(a, b), note)


def _changes(a: Record, b: Record) -> dict[str, tuple[Any, Any]]:
    one, other = (dict(_flat({k: r.get(k) for k in (*COMPARED, *ALSO)})) for r in (a, b))
    names = [name for name in dict.fromkeys([*one, *other]) if name not in FREE]
    found = {n: (one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)}
    # what was asked stands in config too: once is enough
    return {
        n: v
        for n, v in found.items()
        if f"asked.{n.removeprefix('config.')}" not in found or n[:5] == "asked"
    }


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested mappings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{place}.{key}" if place else str(key))
    elif value is not None:
        yield place, value


def _shared(a: Record, b: Record) -> list[str]:
    return [metric for metric in a["metrics"] if metric in b["metrics"]]


def _paired(a: Record, b: Record) -> bool:
    """Whether image i is of one caption or original, and one seed, on both sides."""

    def made_of(record: Record) -> list[Any]:
        config, reference = record.get("config") or {}, record.get("reference") or {}
        seed = (record.get("seeds") or {}).get("seed")
        return [
            seed,
            config.get("prompts_sha256"),
            reference.get("name"),
            reference.get("digest"),
            record["count"],
        ]

    return made_of(a) == made_of(b)


def _side(record: Record, metric: str, root: Path) -> Side:
    entry, config = record["metrics"][metric], record.get("config") or {}
    kept = record.get("images")
    if kept is None:
        return Side(entry)
    error = config.get("max_error")
    return Side(entry, read_kept(root / kept), _reference(record, root), error)


def _reference(record: Record, root: Path) -> FeatureStatistics | None:
    if not (name := record.get("statistics")):
        return None
    protocol = PROTOCOLS.get(record["protocol"]["name"])
    return None if protocol is None else load_statistics(root / name, protocol).statistics


def _entry(metric: str, a: Side, b: Side, paired: bool) -> dict[str, Any]:
    found: Difference = difference(metric, a, b, paired)
    higher = a.entry.get("higher_is_better", True)
    better = None if not found.significant else (found.value > 0) == higher
    return {"a": a.entry["value"], "b": b.entry["value"], **asdict(found), "better": better}


def _costs(a: Record, b: Record) -> dict[str, tuple[Any, Any]]:
    """Counted costs that differ, and seconds of an image on both sides."""
    one, other = a.get("cost") or {}, b.get("cost") or {}
    found = {n: (one.get(n), other.get(n)) for n in COUNTED if one.get(n) != other.get(n)}
    seconds = one.get("seconds_per_image"), other.get("seconds_per_image")
    return found | ({"seconds_per_image": seconds} if None not in seconds else {})
