"""Parity of DivPrune: distances, the greedy order, and the order as the language model sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.parity.report import Golden
from visgen.pruning.divprune import divprune_count, divprune_select
from visgen.pruning.max_min import ROUNDING, cosine_distance, lazy, unit_rows

Tensors = dict[str, Tensor]


def check(golden: Golden) -> None:
    """Every case of every file."""
    for name, case, io in golden.cases(["*.features"]):
        check_case(golden, name, case, io)


def check_case(golden: Golden, name: str, case: dict[str, Any], io: Tensors) -> None:
    """The released rule against the golden, then ours: the same choices as far as none comes twice."""
    features = io["features"][None]
    k = divprune_count(case["ratio"], features.shape[1])
    golden.compare(f"{name}.kept", torch.tensor(k), torch.tensor(case["kept"]))
    official = divprune_select(features, k, strict=False)[0]
    golden.compare(f"{name}.selected_order", official, io["selected_order"])
    golden.compare(f"{name}.selected_sorted", official.sort().values, io["selected_sorted"])
    if "distance" in io:
        golden.compare(f"{name}.distance", cosine_distance(unit_rows(features))[0], io["distance"])
    distinct = distinct_prefix(io["selected_order"])
    golden.compare(
        f"{name}.strict", divprune_select(features, k)[0, :distinct], io["selected_order"][:distinct]
    )
    if case.get("min_argmax_margin", 0) > ROUNDING:
        golden.compare(f"{name}.lazy", lazy(unit_rows(features)[0], k), io["selected_order"])


def distinct_prefix(order: Tensor) -> int:
    """How many choices come before the first repetition."""
    chosen = order.tolist()
    return next((step for step, token in enumerate(chosen) if token in chosen[:step]), len(chosen))
