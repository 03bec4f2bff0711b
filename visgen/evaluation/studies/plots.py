"""Quality against cost, drawn with matplotlib, which is an extra and loaded when something is drawn.

Every point of an SVG links to the record that it was read from.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from visgen.evaluation.numbers import PERCENT
from visgen.evaluation.studies.folder import CELLS, Record
from visgen.evaluation.studies.table import Table, cost
from visgen.evaluation.studies.words import sentence, title

# Okabe and Ito's colours, which the colour-blind tell apart; no yellow, which white paper swallows
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6BB1", "#7F7F7F")
MARKERS = "osD^vPX*<>"
INK, FAINT = "#26292E", "#B9BEC6"  # the report replaces them by its own, light or dark
SIZE, LEGEND_COLUMNS = 42, 4
NARROW = 6  # highest over lowest value of an axis that 1, 2, 5, 10 would hardly mark
UNPLOTTED = ("precision", "recall", "kid", "codebook", "within", "l1_p90")  # no intervals, or no quality
CEILINGS = ("rfid", "psnr", "ssim", "l1", "lpips")  # of a generator these are its tokenizer's
PANELS = ("seconds_per_image", "nfe", "tokens")
AXES = {
    "seconds_per_image": "seconds for an image",
    "nfe": "network evaluations for an image",
    "tokens": "tokens of an image",
}


@dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
        name: of its files.
        caption: what it shows, a sentence.
        svg, png: the files.
    """

    name: str
    caption: str
    svg: str
    png: bytes


def draw_plots(tables: Sequence[Table]) -> list[Plot]:
    """All figures of a study's tables: each metric with intervals against each cost that is known."""
    return [plot for table in tables for plot in _of_table(table)]


def _of_table(table: Table) -> Iterator[Plot]:
    metrics = [m for m in table.metrics if m not in UNPLOTTED]
    if table.kind == "reconstruct":
        if metrics and any(cost(record, "tokens") for record in table.records):
            yield _reconstruction(table, metrics, f"reconstruction{table.suffix}")
        return
    costs = [name for name in PANELS if any(cost(record, name) for record in table.records)]
    for metric in (m for m in metrics if costs and table.ranked(m)):
        if metric not in CEILINGS:
            yield _against_costs(table, metric, costs, f"{metric}{table.suffix}")


def _against_costs(table: Table, metric: str, costs: Sequence[str], name: str) -> Plot:
    records = [record for record in table.records if metric in record["metrics"]]
    styles = cell_styles(records)
    with _figure(len(costs), len(records)) as (figure, axes):
        for panel, cost_name in zip(axes, costs, strict=True):
            points = [(cost(r, cost_name), r) for r in records if cost(r, cost_name)]
            _front(panel, points, metric, table.higher_is_better(metric))
            for x, record in points:
                _point(panel, x, metric, record, *styles[record["cell"]["name"]])
            _finish(panel, AXES[cost_name])
        _label_y(axes[0], metric, table.higher_is_better(metric))
        _legend(figure, axes[0], records, styles)
        words = "Above" if table.higher_is_better(metric) else "Below"
        caption = (
            f"{sentence(title(metric))} against what an image costs, with 95 % intervals. {words} and to the "
            "left is better; the dotted line joins the cells that no other beats in both."
        )
        return _saved(figure, name, caption)


def _reconstruction(table: Table, metrics: Sequence[str], name: str) -> Plot:
    curves = _curves(table.records)
    with _figure(len(metrics), len(curves)) as (figure, axes):
        for panel, metric in zip(axes, metrics, strict=True):
            for (_, records), (colour, marker) in zip(curves.items(), _styles(), strict=False):
                _curve(panel, metric, records, colour, marker)
            _finish(panel, AXES["tokens"])
            _label_y(panel, metric, table.higher_is_better(metric))
        handles = [_handle(label, *style) for label, style in zip(curves, _styles(), strict=False)]
        _place_legend(figure, handles)
        caption = (
            "How well tokenizers keep an image, against the tokens that they keep it in; 95 % intervals."
        )
        return _saved(figure, name, caption)


def _curves(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by tokenizer, and by what chose the number of tokens; by rising number."""
    found: dict[str, list[Record]] = {}
    for record in (one for one in records if cost(one, "tokens")):
        chosen = "max_error" in record["cell"]["parameters"]
        label = record["cell"]["model"] + (", tokens by error" if chosen else "")
        found.setdefault(label, []).append(record)
    return {label: sorted(ones, key=lambda r: cost(r, "tokens") or 0) for label, ones in found.items()}


def _curve(panel: Any, metric: str, records: Sequence[Record], colour: str, marker: str) -> None:
    shown = [(cost(record, "tokens"), record) for record in records if metric in record["metrics"]]
    for x, record in shown:
        _point(panel, x, metric, record, colour, marker)
    panel.plot([x for x, _ in shown], [_value(metric, r)[0] for _, r in shown], color=colour, linewidth=1.2)


def cell_styles(records: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """Cell → (colour of its model, marker among the cells of its model)."""
    models = list(dict.fromkeys(record["cell"]["model"] for record in records))
    seen = dict.fromkeys(models, 0)
    styles = {}
    for record in records:
        model = record["cell"]["model"]
        colour = COLOURS[models.index(model) % len(COLOURS)]
        styles[record["cell"]["name"]] = colour, MARKERS[seen[model] % len(MARKERS)]
        seen[model] += 1
    return styles


def _styles() -> Iterator[tuple[str, str]]:
    return zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS))


def _value(metric: str, record: Record) -> tuple[float, float, float]:
    """Value and the lengths of the two halves of its interval, shares in percent."""
    entry, factor = record["metrics"][metric], 100 if metric in PERCENT else 1
    low, high = entry.get("interval") or (entry["value"], entry["value"])
    value = factor * entry["value"]
    return value, max(0.0, value - factor * low), max(0.0, factor * high - value)


def _point(panel: Any, x: float | None, metric: str, record: Record, colour: str, marker: str) -> None:
    y, down, up = _value(metric, record)
    panel.errorbar([x], [y], [[down], [up]], fmt="none", ecolor=colour, elinewidth=1, alpha=0.55)
    dot = panel.scatter(
        [x], [y], s=SIZE, color=colour, marker=marker, edgecolors="white", linewidths=0.6, zorder=3
    )
    dot.set_urls([f"{CELLS}/{record['cell']['name']}.json"])


def _front(panel: Any, points: Sequence[tuple[Any, Record]], metric: str, higher: bool) -> None:
    """The cells that no other beats in both cost and quality, joined."""
    sign, best, front = (-1 if higher else 1), float("inf"), []
    for x, record in sorted(points, key=lambda one: (one[0], sign * _value(metric, one[1])[0])):
        y = _value(metric, record)[0]
        if sign * y < best:
            best = sign * y
            front.append((x, y))
    panel.plot(*zip(*front, strict=True), color=INK, alpha=0.5, linewidth=1, linestyle=":", zorder=1)


def _finish(panel: Any, label: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    panel.set_xscale("log")
    low, high = panel.dataLim.intervalx
    ticks = (1, 1.5, 2, 3, 4, 5, 6, 8) if high < NARROW * low else (1, 2, 5)
    panel.xaxis.set_major_locator(LogLocator(subs=ticks, numticks=10))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(label)
    panel.margins(x=0.12)
    panel.grid(color=FAINT, linewidth=0.5, alpha=0.5)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _label_y(panel: Any, metric: str, higher: bool) -> None:
    unit = ", %" if metric in PERCENT else ""
    panel.set_ylabel(f"{title(metric)}{unit} {'↑' if higher else '↓'}")


def _legend(figure: Any, panel: Any, records: Sequence[Record], styles: dict[str, tuple[str, str]]) -> None:
    _place_legend(figure, [_handle(r["cell"]["label"], *styles[r["cell"]["name"]]) for r in records])


def _handle(label: str, colour: str, marker: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=marker, linestyle="none", label=label)


def _place_legend(figure: Any, handles: Sequence[Any]) -> None:
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(LEGEND_COLUMNS, len(handles)), frameon=False
    )


@contextmanager
def _figure(panels: int, entries: int) -> Iterator[tuple[Any, Sequence[Any]]]:
    """A figure of panels in a row, with room for a legend below, and its axes."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "visgen",
        "font.size": 9.5,
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with matplotlib.rc_context(settings):
        rows = -(-entries // LEGEND_COLUMNS)
        figure = Figure(figsize=(3.7 * max(2, panels), 3.3 + 0.22 * rows), layout="constrained")
        yield figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _saved(figure: Any, name: str, caption: str) -> Plot:
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    figure.savefig(png, format="png", dpi=150, facecolor="white")
    return Plot(name, caption, svg.getvalue(), png.getvalue())
