"""From what the passes kept to the entries of a result: values, intervals, details."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from visgen.data.scenes.scene import Scene
from visgen.evaluation.bootstrap import FID_MAX_DIMS, Interval, mean_interval, resampled_interval
from visgen.evaluation.distances import inception_score, kid, precision_recall
from visgen.evaluation.metrics import ERROR_METRICS, METRICS
from visgen.evaluation.passes import Pass
from visgen.evaluation.plan import Plan
from visgen.evaluation.protocols import EvaluationProtocol
from visgen.evaluation.rank import spearman
from visgen.evaluation.real import RealSide
from visgen.evaluation.scenes.judge import Verdict
from visgen.evaluation.statistics import FeatureStatistics, FeatureSums, frechet_distance
from visgen.nn.quantizers.codebook import perplexity

Entries = dict[str, dict[str, Any]]


def entry(
    name: str,
    value: float,
    count: int,
    interval: Interval | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One score, JSON-ready."""
    return {
        "value": value,
        "interval": None if interval is None else list(interval),
        "higher_is_better": METRICS[name].higher_is_better,
        "count": count,
        **(details or {}),
    }


def generation_scores(
    plan: Plan, made: Pass, real: RealSide | None, protocol: EvaluationProtocol, seed: int
) -> Entries:
    """FID, KID, Inception Score, precision and recall of generated images, where asked for."""
    out: Entries = {}
    if real is not None and plan.wants("fid"):
        out["fid"] = frechet_entry("fid", made, real, seed)
    if plan.wants("is"):
        score = inception_score(made.rows["logits"], protocol, seed)
        out["is"] = entry("is", score.pop("value"), made.count, details=score)
    if real is not None and real.features is not None:
        features = made.rows["features"]
        if plan.wants("kid"):
            score = kid(features, real.features, protocol, seed)
            out["kid"] = entry("kid", score.pop("value"), made.count, details=score)
        if plan.wants("precision", "recall"):
            values = precision_recall(features, real.features, protocol)
            pairs = zip(("precision", "recall"), values, strict=True)
            out |= {name: entry(name, value, made.count) for name, value in pairs if plan.wants(name)}
    return out


def frechet_entry(name: str, made: Pass, real: RealSide, seed: int) -> dict[str, Any]:
    """FID or rFID; with an interval over resampled images where there are rows of few dimensions."""
    if real.statistics is None:
        raise RuntimeError("the reference was seen without an extractor")
    reference: FeatureStatistics = real.statistics
    value = frechet_distance((made.sums["even"] + made.sums["odd"]).statistics(), reference)

    def distance(rows: np.ndarray) -> float:
        return frechet_distance(FeatureSums.of_array(rows).statistics(), reference)

    rows = made.rows.get("features")
    interval = None
    if rows is not None and rows.shape[1] <= FID_MAX_DIMS:
        low, high = resampled_interval(value, rows.double().numpy(), distance, seed)
        interval = max(0.0, low), high
    return entry(name, value, made.count, interval)


def reconstruction_scores(plan: Plan, pairs: Pass, real: RealSide | None, seed: int) -> Entries:
    """rFID, PSNR, SSIM, LPIPS and codebook use of reconstructions, where asked for."""
    out: Entries = {}
    if real is not None and plan.wants("rfid"):
        out["rfid"] = frechet_entry("rfid", pairs, real, seed)
    for name in ("psnr", "ssim", "lpips"):
        if plan.wants(name):
            out[name] = mean_entry(name, pairs.rows[name], seed)
    if plan.wants("codebook"):
        out["codebook"] = codebook_entry(pairs.sums["codes"], pairs.count)
    return out


def mean_entry(
    name: str, values: Tensor, seed: int, least: float = -math.inf, most: float = math.inf, **details: Any
) -> dict[str, Any]:
    """The mean of values (N,) and its interval, which is cut to what a mean can be, `least` to `most`."""
    rows = values.double().numpy()
    low, high = mean_interval(rows, seed)
    return entry(name, float(rows.mean()), len(rows), (max(least, low), min(most, high)), details)


def error_scores(plan: Plan, pairs: Pass, max_error: float | None, seed: int) -> Entries:
    """Mean and 90th percentile of the images' errors, and the share not above `max_error`, if asked for."""
    out: Entries = {}
    if not plan.wants(*ERROR_METRICS):
        return out
    errors = pairs.rows["l1"]
    if plan.wants("l1"):
        out["l1"] = mean_entry("l1", errors, seed, least=0.0)
    if plan.wants("l1_p90"):
        value = _percentile_90(errors.numpy())
        low, high = resampled_interval(value, errors.numpy(), _percentile_90, seed)
        out["l1_p90"] = entry("l1_p90", value, pairs.count, (max(0.0, low), high))
    if max_error is not None and plan.wants("within"):
        out["within"] = mean_entry("within", errors <= max_error, seed, least=0.0, most=1.0)
    return out


def _percentile_90(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.9))


def tokens_entry(pairs: Pass, objects: Tensor | None, seed: int) -> dict[str, Any]:
    """Mean number of tokens of an image, and their rank correlation with its `objects` (N,), where known."""
    counts = pairs.rows["tokens"]
    details = {} if objects is None else {"objects": spearman(counts, objects)}
    return mean_entry("tokens", counts, seed, least=0.0, **details)


def codebook_entry(counts: Tensor, images: int) -> dict[str, Any]:
    """Fraction of the codes that occur at all, and how evenly they do (perplexity)."""
    used = int((counts > 0).sum())
    details = {"used": used, "size": len(counts), "perplexity": float(perplexity(counts.double()))}
    return entry("codebook", used / len(counts), images, details=details)


def beside_fid(entries: Entries, real: RealSide | None) -> None:
    """Put what bounds a FID into its entry: the tokenizer's (rFID), and that of real images to real."""
    if real is None or not {"fid", "rfid"} <= entries.keys():
        return
    entries["fid"]["beside"] = {
        "reconstruction": entries["rfid"]["value"],
        "real": real.floor,
        "real_counts": None if real.floor_counts is None else list(real.floor_counts),
    }


def adherence_entry(verdicts: Mapping[str, Sequence[Verdict]], scenes: Sequence[Scene]) -> dict[str, Any]:
    """Prompt adherence of what is "generated", with that of the other images beside it as ceilings.

    Args:
        verdicts: on N images that are "generated", "real" and perhaps a "reconstruction".
        scenes: what was asked.
    """
    from visgen.evaluation.scenes.adherence import summarize

    kinds = [scene.kind for scene in scenes]
    found = {name: summarize(seen, kinds).to_dict() for name, seen in verdicts.items()}
    shares = found.pop("generated")
    overall = shares["overall"]
    low, high = overall["interval"]
    details = {"shares": shares, "ceilings": found}
    return entry("adherence", overall["value"], len(scenes), (low, high), details)
