"""Seeded 95 % bootstrap intervals (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LEVEL = 0.95
MEAN_RESAMPLES = 1000
FID_RESAMPLES = 200
FID_MAX_DIMS = 256  # a 2048-dimensional distance takes seconds, two hundred of them minutes

Interval = tuple[float, float]


def mean_interval(values: np.ndarray, seed: int) -> Interval:
    """Interval of the mean of values (n,) over resampled images."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(MEAN_RESAMPLES)]
    return centred(float(values.mean()), np.array(means))


def resampled_interval(
    value: float, rows: np.ndarray, measure: Callable[[np.ndarray], float], seed: int
) -> Interval:
    """Interval of `measure(rows)` = `value` over resampled rows (n, D)."""
    rng = np.random.default_rng(seed)
    draws = [measure(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(FID_RESAMPLES)]
    return centred(value, np.array(draws))


def centred(value: float, draws: np.ndarray) -> Interval:
    """The middle 95 % of the draws, moved so that their mean is `value`.

    A resample repeats images, which biases a distance upwards: unmoved, the interval of a FID may not even
    hold the FID.
    """
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) + value - draws.mean()
    return float(low), float(high)
