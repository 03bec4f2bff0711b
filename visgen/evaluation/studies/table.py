"""The records of a study as tables: rows that may stand side by side, the best among them, and the CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visgen.errors import InputError
from visgen.evaluation.numbers import number
from visgen.evaluation.records import check_comparable
from visgen.evaluation.studies.folder import DONE, Record
from visgen.evaluation.studies.running import Outcome

COSTS = {
    "generate": ("seconds_per_image", "nfe", "tokens"),
    "reconstruct": ("seconds_per_image", "decoder_steps", "tokens"),
}
COST_COLUMNS = (
    "seconds_per_image",
    "images_at_once",
    "passes",
    "draft_passes",
    "decoder_steps",
    "nfe",
    "tokens",
)


@dataclass(frozen=True)
class Table:
    """Comparable records of one kind.

    Attributes:
        kind: "generate" or "reconstruct".
        records: of finished cells, in the order of the study.
        number: among the tables of its kind, from 0.
    """

    kind: str
    records: tuple[Record, ...]
    number: int = 0

    @property
    def suffix(self) -> str:
        """What tells names of files of several tables apart."""
        return f"-{self.number + 1}" if self.number else ""

    @property
    def metrics(self) -> list[str]:
        """All metrics, in order of appearance; token counts stand among the costs."""
        names = dict.fromkeys(name for record in self.records for name in record["metrics"])
        return [name for name in names if name != "tokens"]

    @property
    def costs(self) -> list[str]:
        """The costs that are known of some record."""
        known = [name for name in COSTS[self.kind] if any(cost(r, name) is not None for r in self.records)]
        return [name for name in known if name != "decoder_steps" or any(cost(r, name) for r in self.records)]

    def higher_is_better(self, metric: str) -> bool:
        """Which way to read a metric."""
        return next(r["metrics"][metric]["higher_is_better"] for r in self.records if metric in r["metrics"])

    def ranked(self, metric: str) -> list[Record]:
        """Records that have a metric, best first."""
        found = [record for record in self.records if metric in record["metrics"]]
        sign = -1 if self.higher_is_better(metric) else 1
        return sorted(found, key=lambda record: sign * record["metrics"][metric]["value"])

    def rivals(self, metric: str) -> list[Record]:
        """Records whose interval overlaps that of the best one, which is not among them, best first; all
        others where the best or they have no interval."""
        best, *others = self.ranked(metric)
        return [one for one in others if overlap(best["metrics"][metric], one["metrics"][metric])]

    def clear_best(self, metric: str) -> Record | None:
        """The best record if its interval overlaps no other's; None = nobody can say, or it is alone."""
        ranked = self.ranked(metric)
        return ranked[0] if len(ranked) > 1 and not self.rivals(metric) else None


def overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two scores' intervals overlap; scores without one might."""
    if not one.get("interval") or not other.get("interval"):
        return True
    return one["interval"][0] <= other["interval"][1] and other["interval"][0] <= one["interval"][1]


def cost(record: Record, name: str) -> float | None:
    """A cost of a record; None where it is not known."""
    return (record.get("cost") or {}).get(name)


def tables(outcome: Outcome) -> list[Table]:
    """Finished cells, those that can be compared in one table; generated ones first."""
    done = [r for cell in outcome.cells if (r := outcome.records.get(cell.name)) and r["status"] == DONE]
    groups: list[list[Record]] = []
    for record in done:
        group = next((one for one in groups if _comparable(record, one[0])), None)
        if group is None:
            groups.append([record])
        else:
            group.append(record)
    found = []
    for kind in COSTS:
        same = [group for group in groups if group[0]["cell"]["kind"] == kind]
        found += [Table(kind, tuple(group), number) for number, group in enumerate(same)]
    return found


def _comparable(record: Record, beside: Record) -> bool:
    if record["cell"]["kind"] != beside["cell"]["kind"]:
        return False
    try:
        check_comparable(record, beside)
    except InputError:
        return False
    return True


def cost_text(name: str, value: float | None) -> str:
    """A cost for people."""
    if value is None:
        return "–"
    return f"{value:.3g}" if name == "seconds_per_image" else f"{value:.1f}".removesuffix(".0")


def score_text(metric: str, entry: Mapping[str, Any] | None) -> tuple[str, str]:
    """A score and its interval for people: ("98.5 %", "97.2 – 99.4"); "–" and "" without one."""
    if entry is None:
        return "–", ""
    if not entry.get("interval"):
        return number(metric, entry["value"]), ""
    low, high = (number(metric, end).removesuffix(" %") for end in entry["interval"])
    return number(metric, entry["value"]), f"{low} – {high}"


def to_csv(outcome: Outcome) -> str:
    """All cells of a study, failed and missing ones too, with full precision."""
    metrics = list(dict.fromkeys(m for r in outcome.records.values() for m in r.get("metrics", {})))
    parameters = list(dict.fromkeys(name for cell in outcome.cells for name in cell.parameters))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["cell", "kind", "model", *parameters, "seed", "status", "count"]
    scores = [f"{m}{suffix}" for m in metrics for suffix in ("", "_low", "_high")]
    writer.writerow(
        [*head, *scores, *(f"cost_{name}" for name in COST_COLUMNS), "checkpoint_sha256", "reason"]
    )
    for cell in outcome.cells:
        record = outcome.records.get(cell.name, {})
        asked = [cell.parameters.get(name) for name in parameters]
        status = [record.get("status", "missing"), record.get("count")]
        facts = [cell.name, cell.kind, cell.model, *asked, cell.options.seed, *status]
        found = [*facts, *_scores(record, metrics), *(cost(record, name) for name in COST_COLUMNS)]
        writer.writerow([*found, record.get("subject", {}).get("checkpoint_sha256"), record.get("reason")])
    return buffer.getvalue()


def _scores(record: Record, metrics: Sequence[str]) -> Iterator[Any]:
    for metric in metrics:
        entry = record.get("metrics", {}).get(metric, {})
        yield from (entry.get("value"), *(entry.get("interval") or (None, None)))
