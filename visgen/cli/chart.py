"""Line charts over a doubling axis, drawn with Pillow alone: a plotting library is much for one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visgen.cli.lettering import INK, font

if TYPE_CHECKING:
    from PIL.Image import Image

Points = Sequence[tuple[float, float]]

FINE = 3  # drawn so much larger, then reduced: smooth lines
WIDTH, HEIGHT = 560, 360  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 46  # around its axes
HEAD, LEGEND = 40, 26  # of the title, and of a line of the legend
FAINT, GREY = (228, 228, 228), (110, 110, 110)
TICKS = 5  # about so many on the vertical axis
# Okabe and Ito's colours, told apart by colour-blind people too
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what its vertical axis shows.
        series: name → (x, y); several make a line, one a point. Infinite ones are left out.
    """

    title: str
    series: Mapping[str, Points]


def draw_chart(title: str, x_title: str, panels: Sequence[Panel]) -> Image:
    """Panels side by side over a common legend.

    Args:
        title: above everything.
        x_title: of the horizontal axes, which double from tick to tick.
        panels: of the same series.
    """
    from PIL import Image as Pillow

    names = list(panels[0].series)
    rows = math.ceil(len(names) / _columns(names, WIDTH * len(panels)))
    size = (WIDTH * len(panels), HEAD + HEIGHT + LEGEND * rows + 10)
    pen = Pen(Pillow.new("RGB", (size[0] * FINE, size[1] * FINE), "white"))
    pen.text(size[0] / 2, HEAD / 2, title, 17, "mm")
    for number, panel in enumerate(panels):
        _Axes(pen, panel, number * WIDTH).draw(x_title)
    _legend(pen, names, size[0], HEAD + HEIGHT)
    return pen.sheet.resize(size, Pillow.Resampling.LANCZOS)


class Pen:
    """Draws on a sheet that is `FINE` times larger than the coordinates it is told."""

    def __init__(self, sheet: Image) -> None:
        from PIL import ImageDraw

        self.sheet, self._draw = sheet, ImageDraw.Draw(sheet)

    def text(self, x: float, y: float, text: str, size: int, anchor: str, colour: Any = INK) -> None:
        """Words at a point; `anchor` as Pillow names it."""
        self._draw.text((x * FINE, y * FINE), text, colour, font(size * FINE), anchor)

    def line(self, points: Points, colour: Any, width: float = 1) -> None:
        """A line through points, its corners round."""
        places = [(x * FINE, y * FINE) for x, y in points]
        self._draw.line(places, colour, round(width * FINE), "curve")

    def dot(self, x: float, y: float, colour: Any, radius: float) -> None:
        """A disc with a white rim."""
        for reach, fill in ((radius + 1.2, "white"), (radius, colour)):
            box = [(x - reach) * FINE, (y - reach) * FINE, (x + reach) * FINE, (y + reach) * FINE]
            self._draw.ellipse(box, fill=fill)


class _Axes:
    """Maps the values of a panel to places, and draws it."""

    def __init__(self, pen: Pen, panel: Panel, left: float) -> None:
        self.pen, self.title = pen, panel.title
        self.series = {name: _finite(points) for name, points in panel.series.items()}
        both = [point for points in self.series.values() for point in points] or [(1.0, 0.0)]
        exponents = [math.log2(max(x, 1)) for x, _ in both]
        self.low_x = math.floor(min(exponents))
        self.high_x = max(math.ceil(max(exponents) - 0.2), self.low_x + 1)
        self.ticks = nice_ticks(min(y for _, y in both), max(y for _, y in both))
        self.left, self.right = left + LEFT, left + WIDTH - RIGHT
        self.top, self.bottom = HEAD + TOP, HEAD + HEIGHT - BOTTOM

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a value stands; a little room is left on both sides of the horizontal axis."""
        span = self.high_x - self.low_x + 0.5
        along = (math.log2(max(x, 1)) - self.low_x + 0.25) / span
        up = (y - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return self.left + along * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def draw(self, x_title: str) -> None:
        """Grid, words, lines, dots."""
        pen = self.pen
        pen.text(self.left, self.top - 14, self.title, 13, "ls")
        for tick in self.ticks:
            _, y = self.place(1, tick)
            pen.line([(self.left, y), (self.right, y)], FAINT)
            pen.text(self.left - 8, y, f"{tick:g}", 12, "rm", GREY)
        for exponent in range(self.low_x, self.high_x + 1):
            x, _ = self.place(2**exponent, self.ticks[0])
            pen.line([(x, self.top), (x, self.bottom)], FAINT)
            pen.text(x, self.bottom + 8, str(2**exponent), 12, "mt", GREY)
        pen.line([(self.left, self.bottom), (self.right, self.bottom)], GREY)
        pen.text((self.left + self.right) / 2, self.bottom + 40, x_title, 13, "mb")
        for number, points in enumerate(self.series.values()):
            self._curve(sorted(points), COLOURS[number % len(COLOURS)])

    def _curve(self, points: Points, colour: Any) -> None:
        places = [self.place(*point) for point in points]
        if len(places) > 1:
            self.pen.line(places, colour, 2)
        for x, y in places:
            self.pen.dot(x, y, colour, 3.2 if len(places) > 1 else 5)


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers at one distance (1, 2, 2.5 or 5 times a power of ten) that enclose both."""
    rough = (high - low) / TICKS or abs(high) / TICKS or 1.0
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def _columns(names: Sequence[str], width: int) -> int:
    return max(1, min(len(names), (width - 20) // (8 * max(map(len, names)) + 40)))


def _legend(pen: Pen, names: Sequence[str], width: int, top: float) -> None:
    columns = _columns(names, width)
    each = 8 * max(map(len, names)) + 40
    left = (width - columns * each) / 2
    for number, name in enumerate(names):
        x, y = left + number % columns * each, top + LEGEND * (number // columns + 0.5)
        pen.dot(x + 8, y, COLOURS[number % len(COLOURS)], 5)
        pen.text(x + 20, y, name, 13, "lm")
