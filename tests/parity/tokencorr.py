"""Parity of TokenCorr with a reference of its spec: redundancy, budget, choice, groups and their means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.parity.report import Golden
from visgen.pruning.correlation import (
    density_budget,
    grouped,
    informative_tokens,
    ratio_budget,
    redundant_tokens,
)

Tensors = dict[str, Tensor]


def check(golden: Golden) -> None:
    """Every case of every file."""
    for name, case, io in golden.cases(["*.keys", "*.cls_attn", "*.features"]):
        check_case(golden, name, case, io)


def check_case(golden: Golden, name: str, case: dict[str, Any], io: Tensors) -> None:
    """One sub-image."""
    keys, n = io["keys"], len(io["keys"])
    redundant = redundant_tokens(keys, case["tau"], case["fraction"])
    ratio = case["fixed_ratio"]
    budget = density_budget(redundant) if ratio is None else ratio_budget(ratio, n)
    groups = grouped(keys, informative_tokens(io["cls_attn"], budget))
    density = 1 - redundant.float().mean()
    found = {
        "redundant": redundant,
        "density": density,
        "keep": groups.keep_K,
        "assign": groups.assign_N,
        "counts": groups.sizes_K.float(),
        "merged": groups.means(io["features"]),
    }
    for key, tensor in found.items():
        expected = io[key].long() if key == "redundant" else io[key]  # equal, not within one level
        golden.compare(f"{name}.{key}", tensor, expected)
    golden.compare(f"{name}.kept", torch.tensor(budget), torch.tensor(case["kept"]))
    golden.compare(f"{name}.meta_density", density, torch.tensor(case["density"]))
