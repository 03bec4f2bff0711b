"""Is one value larger than another, or is it chance? 95 % intervals of differences.

Paired (Efron 1979): both cells judged the same images 0 … N − 1, so resamples draw the same indices from
both, and what is hard or easy for both cancels out. Otherwise (MOVER, Zou and Donner 2008): the interval of
b − a from the intervals of two independent values, [d − √((b − b_low)² + (a_high − a)²), …].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from visgen.evaluation.bootstrap import FID_RESAMPLES, MEAN_RESAMPLES, Interval, centred
from visgen.evaluation.statistics import FeatureStatistics, FeatureSums, frechet_distance
from visgen.evaluation.studies.kept import ADHERENCE, GENERATED, RECONSTRUCTED, Kept

Method = Literal["paired", "intervals", "identical", "none"]
Measure = Callable[[np.ndarray], float]

# Metric → row that it is the mean of
MEANS = {
    "adherence": ADHERENCE,
    "psnr": "psnr",
    "ssim": "ssim",
    "lpips": "lpips",
    "l1": "l1",
    "tokens": "tokens",
}
# Metric → features that it is the Fréchet distance of
DISTANCES = {"fid": GENERATED, "rfid": RECONSTRUCTED}


@dataclass(frozen=True)
class Difference:
    """b − a with its interval, and whether it leaves out zero; None where that cannot be told."""

    value: float
    interval: Interval | None
    significant: bool | None
    method: Method


@dataclass(frozen=True, eq=False)
class Side:
    """One cell's score.

    Attributes:
        entry: of its record: "value", "interval".
        kept: rows of its images; None when there are none.
        reference: of Fréchet distances.
        max_error: that "within" counts by.
    """

    entry: dict[str, Any]
    kept: Kept | None = None
    reference: FeatureStatistics | None = None
    max_error: float | None = None


def difference(metric: str, a: Side, b: Side, paired: bool, seed: int = 0) -> Difference:
    """The difference of a metric between two cells.

    Args:
        metric: its name.
        a, b: the cells.
        paired: image i of both was made of the same caption or original with the same seed.
        seed: of the resamples.
    """
    value = b.entry["value"] - a.entry["value"]
    measures = (measure(metric, a), measure(metric, b)) if paired else (None, None)
    if measures[0] is not None and measures[1] is not None:
        interval = _paired(metric, value, measures[0], measures[1], a, b, seed)
        method: Method = "identical" if interval == (0.0, 0.0) and value == 0 else "paired"
    else:
        interval = independent(a.entry, b.entry)
        method = "none" if interval is None else "intervals"
    if interval is None:
        return Difference(value, None, None, method)
    significant = None if _singular(metric, a) else not interval[0] <= 0 <= interval[1]
    return Difference(value, interval, significant, method)


def _singular(metric: str, side: Side) -> bool:
    """Whether a Fréchet distance is of no more images than dimensions: resamples, which repeat some, are then
    no guide to other images."""
    rows = None if side.kept is None else side.kept.rows.get(DISTANCES.get(metric, ""))
    return rows is not None and len(rows) <= rows.shape[1]


def measure(metric: str, side: Side) -> Measure | None:
    """The metric as a function of image indices; None where the rows that it needs were not kept."""
    rows = {} if side.kept is None else side.kept.rows
    if metric in MEANS and MEANS[metric] in rows:
        values: np.ndarray = rows[MEANS[metric]].astype(np.float64)
        return lambda index: float(values[index].mean())
    if metric in DISTANCES and DISTANCES[metric] in rows and side.reference is not None:
        return _distance(rows[DISTANCES[metric]].astype(np.float64), side.reference)
    if "l1" in rows:
        return _of_errors(metric, rows["l1"].astype(np.float64), side.max_error)
    return None


def _distance(features: np.ndarray, reference: FeatureStatistics) -> Measure:
    return lambda index: frechet_distance(FeatureSums.of_array(features[index]).statistics(), reference)


def _of_errors(metric: str, errors: np.ndarray, max_error: float | None) -> Measure | None:
    if metric == "l1_p90":
        return lambda index: float(np.quantile(errors[index], 0.9))
    if metric == "within" and max_error is not None:
        return lambda index: float((errors[index] <= max_error).mean())
    return None


def _paired(
    metric: str, value: float, first: Measure, second: Measure, a: Side, b: Side, seed: int
) -> Interval | None:
    """Interval over resampled images, the same ones on both sides; None when they have not as many."""
    counts = [len(next(iter(side.kept.rows.values()))) for side in (a, b) if side.kept is not None]
    if len(set(counts)) != 1 or counts[0] < 2:
        return None
    rng, resamples = np.random.default_rng(seed), FID_RESAMPLES if metric in DISTANCES else MEAN_RESAMPLES
    draws = []
    for _ in range(resamples):
        index = rng.integers(counts[0], size=counts[0])
        draws.append(second(index) - first(index))
    return centred(value, np.array(draws))


def independent(a: dict[str, Any], b: dict[str, Any]) -> Interval | None:
    """Interval of b − a from both intervals; None where one has none."""
    if not a.get("interval") or not b.get("interval"):
        return None
    (a_low, a_high), (b_low, b_high) = a["interval"], b["interval"]
    value = b["value"] - a["value"]
    down = math.hypot(b["value"] - b_low, a_high - a["value"])
    up = math.hypot(b_high - b["value"], a["value"] - a_low)
    return value - down, value + up
