"""Mean and covariance of features in one pass, and the Fréchet distance of two of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureSums:
    """Sums over features, in float64: parts of a set may be summed anywhere and added.

    Attributes:
        count: number of features n.
        total: their sum, (D,).
        products: the sum of their outer products, (D, D).
    """

    count: int
    total: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, features: Tensor) -> FeatureSums:
        """Sums of features (n, D)."""
        return cls.of_array(features.detach().cpu().double().numpy())

    @classmethod
    def of_array(cls, rows: np.ndarray) -> FeatureSums:
        """Sums of float64 rows (n, D)."""
        return cls(len(rows), rows.sum(axis=0), rows.T @ rows)

    def __add__(self, other: FeatureSums) -> FeatureSums:
        return FeatureSums(self.count + other.count, self.total + other.total, self.products + other.products)

    def statistics(self) -> FeatureStatistics:
        """Mean and unbiased covariance; needs two features or more."""
        mean = self.total / self.count
        covariance = (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return FeatureStatistics(mean, (covariance + covariance.T) / 2, self.count)


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """The Gaussian of a set of features, in float64.

    Attributes:
        mean: (D,).
        covariance: (D, D), symmetric.
        count: how many features it was made of; None where a file does not say.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Fréchet distance |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of two Gaussians (FID, arXiv 1706.08500).

    The trace of the root is the sum of the singular values of A₁ᵀ A₂ with Σ = A Aᵀ: nothing complex, and as
    good for singular covariances, whose null space `half` leaves out.
    """
    difference = first.mean - second.mean
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    roots = np.linalg.svd(half(first.covariance).T @ half(second.covariance), compute_uv=False)
    return max(0.0, float(difference @ difference + traces - 2 * roots.sum()))


def half(covariance: np.ndarray) -> np.ndarray:
    """A (D, rank) with A Aᵀ = `covariance` (D, D); eigenvalues that are rounding noise are left out."""
    values, vectors = np.linalg.eigh(covariance)
    noise = max(values[-1], 0.0) * len(values) * np.finfo(values.dtype).eps
    kept = values > noise
    return vectors[:, kept] * np.sqrt(values[kept])
