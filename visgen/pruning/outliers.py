"""Local outlier factor of numbers on a line (Breunig et al. 2000), with scikit-learn's rules.

Nearest neighbours of a number stand within k places of it once all are sorted: no N × N distances.
"""

from __future__ import annotations

import torch
from torch import Tensor

OUTLIER = 1.5  # scikit-learn's `contamination="auto"`
LEAST = 1e-10  # added to mean reachability distances, as there


def local_outlier_factor(values_N: Tensor, neighbours: int) -> Tensor:
    """(N,) float64: how much sparser it is around a number than around its neighbours; about 1 for none.

    Args:
        values_N: numbers, taken as float32.
        neighbours: k, at most N − 1 are used.
    """
    n = len(values_N)
    if n < 2:
        return torch.ones(n, dtype=torch.float64, device=values_N.device)
    sorted_N, order_N = values_N.float().double().sort(stable=True)
    index_NK, distance_NK = _neighbours(sorted_N, min(neighbours, n - 1))
    reach_NK = torch.maximum(distance_NK, distance_NK[:, -1][index_NK])
    density_N = 1 / (reach_NK.mean(dim=1) + LEAST)
    factor_N = density_N[index_NK].mean(dim=1) / density_N
    return torch.empty_like(factor_N).scatter_(0, order_N, factor_N)


def outlier_ratio(values_N: Tensor, neighbours: int) -> float:
    """Share of numbers whose factor is above 1.5, [0, 1]; low ones count as high ones; 0 of none."""
    if not len(values_N):
        return 0.0
    return int((local_outlier_factor(values_N, neighbours) > OUTLIER).sum()) / len(values_N)


def _neighbours(sorted_N: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices and distances (N, k) of the k nearest others of each of N sorted numbers, nearest first."""
    n = len(sorted_N)
    step_J = torch.arange(-k, k + 1, device=sorted_N.device)
    step_J = step_J[step_J != 0]
    index_NJ = torch.arange(n, device=sorted_N.device)[:, None] + step_J
    outside = (index_NJ < 0) | (index_NJ >= n)
    index_NJ = index_NJ.clamp(0, n - 1)
    distance_NJ = (sorted_N[index_NJ] - sorted_N[:, None]).abs().masked_fill(outside, torch.inf)
    distance_NK, place_NK = distance_NJ.topk(k, dim=1, largest=False)
    return index_NJ.gather(1, place_NK), distance_NK
