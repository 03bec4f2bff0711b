"""Result records as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from visgen.evaluation.numbers import number

if TYPE_CHECKING:
    from rich.table import Table

Record = Mapping[str, Any]


def score_tables(records: Sequence[Record]) -> Iterator[Table]:
    """One row per record; below it what stands beside a FID, what tokens go with, and adherence by attribute
    and kind."""
    yield _overview(records)
    for record in records:
        if "beside" in record["metrics"].get("fid", {}):
            yield _beside(record)
        if "objects" in record["metrics"].get("tokens", {}):
            yield _tokens(record)
        if "shares" in record["metrics"].get("adherence", {}):
            yield _adherence(record)
    if any(record.get("pruning") for record in records):
        yield _pruning([record for record in records if record.get("pruning") or record.get("reading")])


def figures_table(title: str, *columns: str, highlight: bool = True) -> Table:
    """An empty table: what a row is about, then figures to the right."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    out = Table(box=box.SIMPLE, title=escape(title), title_justify="left", highlight=highlight)
    out.add_column(columns[0])
    for column in columns[1:]:
        out.add_column(escape(column), justify="right")
    return out


def _overview(records: Sequence[Record]) -> Table:
    from rich.markup import escape

    first, protocol = records[0], records[0]["protocol"]
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    better = {n: one["higher_is_better"] for record in records for n, one in record["metrics"].items()}
    reference = (first["reference"] or {}).get("name", "no reference")
    what = "questions" if first["subject"].get("kind") == "answer" else "images"
    title = f"protocol {protocol['name']} v{protocol['version']} · {reference} · {first['count']} {what}"
    out = figures_table(title, "", *(f"{name} {'↑' if better[name] else '↓'}" for name in names))
    for record in records:
        cells = [_cell(name, record["metrics"].get(name)) for name in names]
        out.add_row(*map(escape, [record["subject"]["name"], *cells]))
    return out


def _cell(name: str, score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "–"
    text, interval = number(name, score["value"]), score.get("interval")
    if not interval:
        return text
    return f"{text} [{number(name, interval[0])}, {number(name, interval[1])}]"


def _beside(record: Record) -> Table:
    fid = record["metrics"]["fid"]
    beside = fid["beside"]
    out = figures_table(f"{record['subject']['name']}: what FID can be", "", "fid")
    out.add_row("generated", number("fid", fid["value"]))
    out.add_row("reconstructed: the tokenizer's ceiling", number("fid", beside["reconstruction"]))
    if beside["real"] is not None:
        sides = " and ".join(map(str, beside["real_counts"]))
        out.add_row(f"real ({sides} images): the floor", number("fid", beside["real"]))
    return out


def _tokens(record: Record) -> Table:
    score = record["metrics"]["tokens"]
    out = figures_table(f"{record['subject']['name']}: tokens of an image", "", "tokens")
    out.add_row("mean", number("tokens", score["value"]))
    out.add_row("rank correlation with the number of objects", number("objects", score["objects"]))
    return out


def _pruning(records: Sequence[Record]) -> Table:
    """What each way kept, what it cost (of one question), and how it differs from the whole model."""
    from rich.markup import escape

    columns = ("tokens", "kept", "mean of layers", "decoder FLOPs", "cache KiB", "selection ms", "prefill ms")
    out = figures_table("vision tokens", "", *columns, "accuracy − whole")
    for record in records:
        one = record["pruning"] or record["reading"]
        counts = [f"{one[name]:.1f}" for name in ("image_tokens", "kept_tokens", "average_tokens")]
        costs = [number("accuracy", one["flops_ratio"]), f"{one['cache_bytes'] / 1024:.0f}"]
        times = [f"{one[name]:.2f}" for name in ("selection_ms", "prefill_ms")]
        out.add_row(escape(record["subject"]["name"]), *counts, *costs, *times, escape(_difference(record)))
    return out


def _difference(record: Record) -> str:
    """In points of percent, with the interval of the pairs."""
    if not record["paired"]:
        return "–"
    score = record["paired"]["differences"]["accuracy"]
    value, low, high = (100 * number for number in (score["value"], *score["interval"]))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _adherence(record: Record) -> Table:
    score = record["metrics"]["adherence"]
    columns = {record["subject"]["name"]: score["shares"], **score["ceilings"]}
    out = figures_table(f"{record['subject']['name']}: adherence", "", "images", *columns)
    for label, path in _rows(score["shares"]):
        shares = [_at(shares, path) for shares in columns.values()]
        texts = ["–" if share is None else number("adherence", share["value"]) for share in shares]
        out.add_row(label, str(_at(score["shares"], path)["count"]), *texts)
    return out


def _rows(shares: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(label, path) of every share: the total, then each group's."""
    for group, inside in shares.items():
        if "value" in inside:
            yield group, (group,)
        else:
            yield from ((name, (group, name)) for name in inside)


def _at(shares: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = shares
    for name in path:
        found = (found or {}).get(name)
    return found
