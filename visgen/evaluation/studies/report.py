"""The report of a study: one HTML file that needs nothing beside it, every figure linking to its record."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visgen.evaluation.numbers import POINTS, signed
from visgen.evaluation.studies.beside import Beside, beside_first
from visgen.evaluation.studies.folder import CELLS, FAILED, Record, StudyFolder
from visgen.evaluation.studies.grids import SampleGrid
from visgen.evaluation.studies.plots import FAINT, INK, Plot
from visgen.evaluation.studies.running import Outcome
from visgen.evaluation.studies.study import Study
from visgen.evaluation.studies.table import Table, cost, cost_text, score_text
from visgen.evaluation.studies.words import COSTS, MEANINGS, sentence, title

PAGE = Path(__file__).parent / "page"
NAMED_RIVALS = 3
KINDS = {"generate": "Generated images", "reconstruct": "Reconstructions"}


@dataclass(frozen=True)
class Figures:
    """What was drawn for a report."""

    plots: Sequence[Plot]
    grids: Sequence[SampleGrid]


def report_html(
    study: Study,
    outcome: Outcome,
    tables: Sequence[Table],
    figures: Figures,
    folder: StudyFolder,
    command: str,
) -> str:
    """The report.

    Args:
        study: that was run.
        outcome: what became of it.
        tables: of its finished cells.
        figures: plots and samples.
        folder: where its files are.
        command: that made it, for people who want to repeat it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    pages = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    records = [record for table in tables for record in table.records]
    return pages.get_template("report.html").render(
        study=study,
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),
        facts=_facts(study, records),
        tables=[_table(table, folder) for table in tables],
        plots=[{"svg": Markup(inline_svg(plot)), "plot": plot} for plot in figures.plots],
        grids=[_grid(grid) for grid in figures.grids],
        failed=[r for r in outcome.records.values() if r["status"] == FAILED],
        missing=[cell for cell in outcome.cells if cell.name not in outcome.records],
        words=_words(tables),
        origins=_origins(records),
        made=_made(records),
        command=command,
    )


def link(record: Record) -> str:
    """Where the record of a cell lies, seen from the report."""
    return f"{CELLS}/{record['cell']['name']}.json"


def _facts(study: Study, records: Sequence[Record]) -> list[str]:
    """What holds for the whole study, in a few words each."""
    counts = sorted({record["count"] for record in records})
    images = " or ".join(f"{count:,}" for count in counts) or f"{study.count:,}"
    devices = sorted(
        {f"{r['device_name']}, {r['threads']} thread{'s' * (r['threads'] != 1)}" for r in records}
    )
    days = sorted(record["finished"][:10] for record in records)
    seconds = sum(record["cell_seconds"] for record in records)
    facts = [f"protocol {study.protocol_used().label}", study.reference, f"{images} images a cell"]
    facts += [f"seed{'s' * (len(study.seeds) > 1)} {', '.join(map(str, study.seeds))}", *devices]
    return [*facts, *days[-1:], *([f"{seconds / 60:.0f} minutes in all"] if seconds >= 60 else [])]


def _table(table: Table, folder: StudyFolder) -> dict[str, Any]:
    """What the template shows of a table."""
    metrics = table.metrics
    clear = {metric: table.clear_best(metric) for metric in metrics}
    heads = [(metric, title(metric), "↑" if table.higher_is_better(metric) else "↓") for metric in metrics]
    return {
        "title": KINDS[table.kind],
        "what": _what(table),
        "biased": _biased(table),
        "glance": [_glance(table, metric) for metric in metrics if _has_intervals(table, metric)],
        "metrics": heads,
        "costs": [COSTS[name][0] for name in table.costs],
        "rows": [_row(record, table, clear) for record in table.records],
        "any_clear": any(clear.values()),
        "beside": _beside(list(beside_first(table, folder.folder))),
    }


def _what(table: Table) -> str:
    """What all rows of a table have in common."""
    first = table.records[0]
    beside = f", beside {first['reference']['name']}" if first["reference"] else ""
    protocol = first["protocol"]
    return f"{first['count']:,} images a cell{beside}, protocol {protocol['name']} v{protocol['version']}."


def _biased(table: Table) -> str:
    """A warning where Fréchet distances are of fewer images than features have dimensions; else empty."""
    first = table.records[0]
    count, dims = first["count"], first["protocol"].get("feature_dims", 0)
    if count > dims or not {"fid", "rfid"} & set(table.metrics):
        return ""
    return f"Of {count} images in {dims} dimensions Fréchet distances are far too large, and rough at that."


def _has_intervals(table: Table, metric: str) -> bool:
    ranked = table.ranked(metric)
    return len(ranked) > 1 and all(record["metrics"][metric]["interval"] for record in ranked)


def _glance(table: Table, metric: str) -> dict[str, Any]:
    """The best of a metric, and who cannot be told from it."""
    best, rivals = table.ranked(metric)[0], table.rivals(metric)
    value, interval = score_text(metric, best["metrics"][metric])
    others = [(one["cell"]["label"], link(one)) for one in rivals[:NAMED_RIVALS]]
    return {
        "metric": sentence(title(metric)),
        "word": "highest" if table.higher_is_better(metric) else "lowest",
        "label": best["cell"]["label"],
        "link": link(best),
        "value": value,
        "interval": interval,
        "rivals": others,
        "more": len(rivals) - len(others),
    }


def _row(record: Record, table: Table, clear: dict[str, Record | None]) -> dict[str, Any]:
    scores = []
    for metric in table.metrics:
        value, interval = score_text(metric, record["metrics"].get(metric))
        scores.append({"value": value, "interval": interval, "best": clear[metric] is record})
    costs = [cost_text(name, cost(record, name)) for name in table.costs]
    return {"label": record["cell"]["label"], "link": link(record), "scores": scores, "costs": costs}


def _beside(groups: Sequence[Beside]) -> dict[str, Any]:
    """Differences to each model's first cell, in words; "groups" is empty where no model has two cells."""
    metrics = list(dict.fromkeys(metric for one in groups for metric in one.metrics))
    found = []
    for one in groups:
        rows = []
        for record, differences in one.others:
            cells = [_difference(metric, differences.get(metric)) for metric in metrics]
            about = {"label": record["cell"]["label"], "link": link(record), "speed": _speed(one, record)}
            rows.append(about | {"cells": cells})
        found.append({"first": one.first["cell"]["label"], "link": link(one.first), "rows": rows})
    return {"heads": [title(metric) for metric in metrics], "groups": found}


def _difference(metric: str, found: dict[str, Any] | None) -> dict[str, Any]:
    if found is None or found["interval"] is None:
        return {"text": "–", "interval": "", "verdict": ""}
    text, low, high = (signed(metric, value) for value in (found["value"], *found["interval"]))
    low = low.removesuffix(POINTS)
    verdict = "" if not found["significant"] else "better" if found["better"] else "worse"
    return {
        "text": text,
        "interval": f"{low} – {high.removesuffix(POINTS)}",
        "verdict": verdict,
    }


def _speed(one: Beside, record: Record) -> str:
    before, after = cost(one.first, "seconds_per_image"), cost(record, "seconds_per_image")
    return "–" if not before or not after else f"{before / after:.2f} ×"


def _grid(grid: SampleGrid) -> dict[str, Any]:
    """Images as data, column by column turned into rows."""
    columns = [
        {"label": column.label, "link": None if column.record is None else link(column.record)}
        for column in grid.columns
    ]
    rows = [
        {"subject": subject, "images": [data_uri(column.images[i], "image/png") for column in grid.columns]}
        for i, subject in enumerate(grid.subjects)
    ]
    return {"title": grid.title, "columns": columns, "rows": rows}


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a URI that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def inline_svg(plot: Plot) -> str:
    """A figure as part of a page: ids of its own, and the page's colours for ink and lines."""
    svg = plot.svg[plot.svg.index("<svg") :]
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{plot.name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img" width="100%"', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace(INK.lower(), "var(--ink)").replace(FAINT.lower(), "var(--line)")


def _words(tables: Sequence[Table]) -> list[tuple[str, str]]:
    """(name, meaning) of the columns."""
    metrics = dict.fromkeys(metric for table in tables for metric in table.metrics)
    costs = dict.fromkeys(name for table in tables for name in table.costs)
    told = [(title(metric), MEANINGS[metric]) for metric in metrics if metric in MEANINGS]
    return told + [COSTS[name] for name in costs]


def _origins(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(model, checkpoint) of all models."""
    found = {r["cell"]["model"]: r["subject"]["checkpoint_sha256"] or "a folder of images" for r in records}
    return sorted(found.items())


def _made(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(what, values) of the circumstances that the records tell."""
    columns: dict[str, dict[str, None]] = {}
    for record in records:
        facts = {name: version for name, version in record["versions"].items() if version}
        facts |= {"processor": record["device_name"], "threads": record["threads"], "dtype": record["dtype"]}
        if record["reference"]:
            facts["reference"] = f"{record['reference']['name']}, {record['reference']['digest'][:16]}…"
        for name, value in facts.items():
            columns.setdefault(name, {})[str(value)] = None
    return [(name, ", ".join(values)) for name, values in columns.items()]
