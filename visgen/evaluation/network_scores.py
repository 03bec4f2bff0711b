"""The entries of FD-DINOv2, CMMD and CLIP score."""

from __future__ import annotations

from typing import Any

import numpy as np

from visgen.evaluation.bootstrap import Interval, resampled_interval
from visgen.evaluation.kernel_distance import cmmd
from visgen.evaluation.network_rows import NetworkSide
from visgen.evaluation.passes import Pass
from visgen.evaluation.plan import Plan
from visgen.evaluation.real import RealSide
from visgen.evaluation.scores import Entries, entry, mean_entry
from visgen.evaluation.statistics import FeatureSums, frechet_distance


def network_scores(plan: Plan, made: Pass, real: RealSide | None, seed: int) -> Entries:
    """Those that are asked for."""
    out: Entries = {}
    sides = {} if real is None else real.networks
    if plan.wants("fd_dinov2"):
        out["fd_dinov2"] = _fd_dinov2(made, sides["fd_dinov2"], seed)
    if plan.wants("cmmd"):
        out["cmmd"] = _cmmd(made, sides["cmmd"], seed)
    if plan.wants("clip_score"):
        out["clip_score"] = mean_entry("clip_score", made.rows["clip_score"], seed, least=0.0, most=100.0)
    return out


def _fd_dinov2(made: Pass, side: NetworkSide, seed: int) -> dict[str, Any]:
    """With an interval over resampled images where features have few dimensions, as FID has it."""
    reference = side.statistics
    if reference is None:
        raise RuntimeError("the reference was not seen through DINOv2")

    def distance(rows: np.ndarray) -> float:
        return frechet_distance(FeatureSums.of_array(rows).statistics(), reference)

    value = frechet_distance(made.sums["fd_dinov2"].statistics(), reference)
    interval: Interval | None = None
    if (rows := made.rows.get("fd_dinov2")) is not None:
        low, high = resampled_interval(value, rows.double().numpy(), distance, seed)
        interval = max(0.0, low), high
    return entry("fd_dinov2", value, made.count, interval, {"reference_images": side.count})


def _cmmd(made: Pass, side: NetworkSide, seed: int) -> dict[str, Any]:
    if side.rows is None:
        raise RuntimeError("the reference was not seen through CLIP")
    value, interval = cmmd(made.rows["cmmd"], side.rows, seed)
    return entry("cmmd", value, made.count, interval, {"reference_images": side.count})
