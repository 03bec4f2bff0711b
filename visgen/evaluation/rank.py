"""Rank correlation (Spearman 1904). Training measures it too, where scipy need not be installed."""

from __future__ import annotations

from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0 of values (N,), float64; equal values share their mean rank."""
    _, where, counts = values.unique(sorted=True, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() + 1) / 2)[where]


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two (N,); 0 where one of them is constant."""
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    scale = x.norm() * y.norm()
    return float((x * y).sum() / scale) if float(scale) > 0 else 0.0
