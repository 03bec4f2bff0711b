"""Parity of Recoverable Compression: outlier factors, counts, choices, clusters, the compressed sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.parity.report import Golden
from visgen.pruning.outliers import local_outlier_factor, outlier_ratio
from visgen.pruning.recovery import (
    CLUSTER_NEIGHBOURS,
    SCORE_NEIGHBOURS,
    Counts,
    cls_row,
    own_counts,
    recover,
)

Tensors = dict[str, Tensor]
INPUTS = ["*.image_features", "*.q_last", "*.k_last", "*.text_similarity", "lof*.values"]


def check(golden: Golden) -> None:
    """Every case of every file."""
    for name, case, io in golden.cases(INPUTS):
        (check_factors if "values" in io else check_image)(golden, name, case, io)


def check_factors(golden: Golden, name: str, case: dict[str, Any], io: Tensors) -> None:
    """The outlier factor of numbers, against scikit-learn."""
    values, k = io["values"], case["k"]
    ratio = outlier_ratio(values, k)
    factor = local_outlier_factor(values, k)
    golden.compare(f"{name}.negative_outlier_factor", -factor, io["negative_outlier_factor"])
    number(golden, name, case, "ratio", ratio)
    number(golden, name, case, "count", round(ratio * len(values)))
    number(golden, name, case, "int_n_times_ratio", int(len(values) * ratio))


def check_image(golden: Golden, name: str, case: dict[str, Any], io: Tensors) -> None:
    """One image, as the released code has it."""
    features, keys = io["image_features"][0], io["k_last"][0]
    visual, text = cls_row(io["q_last"][0, 0], keys), io["text_similarity"].flatten()
    golden.compare(f"{name}.cls_attn", visual, io["cls_attn"])
    counts = own_counts(visual, text, channels=features.shape[1])
    found = recover(features, keys[1:], visual, text, counts, aligned=False)
    golden.compare(f"{name}.idx_vision", found.visual_V, io["idx_vision"])
    golden.compare(f"{name}.idx_text", found.text_T, io["idx_text"])
    golden.compare(f"{name}.kept_sorted", found.kept_K, io["kept_sorted"])
    golden.compare(f"{name}.cluster_local", found.centres_J, io["cluster_local"])
    golden.compare(f"{name}.output", found.features_MC, io["output"])
    check_counts(golden, name, case, counts, found.features_MC)
    lowered = text.clone()
    lowered[found.visual_V] = text.min()
    number(golden, name, case, "ratio_vision", outlier_ratio(visual, SCORE_NEIGHBOURS))
    number(golden, name, case, "ratio_text", outlier_ratio(lowered, SCORE_NEIGHBOURS))
    number(golden, name, case, "ratio_cluster", outlier_ratio(visual[found.rest_R], CLUSTER_NEIGHBOURS))


def check_counts(golden: Golden, name: str, case: dict[str, Any], counts: Counts, output: Tensor) -> None:
    """How many tokens of each kind."""
    number(golden, name, case, "n_vision", counts.visual)
    number(golden, name, case, "n_text", counts.text)
    number(golden, name, case, "n_cluster", counts.clusters)
    number(golden, name, case, "out_tokens", len(output))


def number(golden: Golden, name: str, case: dict[str, Any], key: str, found: float) -> None:
    """A number of the case's meta data."""
    expected = torch.tensor(case[key], dtype=torch.float64 if isinstance(case[key], float) else None)
    golden.compare(f"{name}.{key}", torch.tensor(found, dtype=expected.dtype), expected)
