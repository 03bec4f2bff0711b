"""Parity of GlobalCom²: allocation, scores, choices, and the sequence in the released code's placement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.parity.report import Golden
from visgen.pruning.anyres import Canvas, concatenated_places, with_line_ends
from visgen.pruning.globalcom2_scores import (
    all_crop_tokens,
    crop_ratios,
    global_scores,
    thumbnail_tokens,
)

Tensors = dict[str, Tensor]
INPUTS = ["*.base_features", "*.crop_features", "*.image_newline", "*.base_scores", "*.crop_scores"]


def check(golden: Golden) -> None:
    """Every case of every file."""
    for name, case, io in golden.cases(INPUTS):
        check_case(golden, name, case, io)


def check_case(golden: Golden, name: str, case: dict[str, Any], io: Tensors) -> None:
    """Where all scores of a map are equal, rounding decides which tokens stay: only how many is compared."""
    canvas = Canvas(case["num_patch_height"], case["num_patch_width"], case["patches_per_side"])
    region = canvas.unpadded((case["original_height"], case["original_width"]))
    thumbnail, crops, ratio = io["base_scores"], io["crop_scores"], case["ratio"]
    first = thumbnail_tokens(thumbnail, ratio)
    kept, seen = all_crop_tokens(thumbnail, crops, canvas, region, ratio)
    sequence = with_line_ends(
        torch.cat([f[s[k]] for f, s, k in zip(io["crop_features"], seen, kept)]),
        concatenated_places(canvas, kept),
        canvas.size,
        io["image_newline"],
    )
    found = {
        "scales": crop_ratios(thumbnail, canvas, ratio),
        "topk_per_crop": torch.tensor([len(k) for k in kept]),
        "crop_dims_wh": torch.tensor([part.size[::-1] for part in canvas.crops(region)]),
        "thumbnail_indices_ranked": first,
        "crop_sequence": sequence.half().float(),  # as the released code casts
    }
    found |= {f"topk_ranked.{crop}": k for crop, k in enumerate(kept)}
    found |= {f"global_score.{crop}": s for crop, s in enumerate(global_scores(thumbnail, canvas, region))}
    arbitrary = len(thumbnail.unique()) == 1
    for key, tensor in found.items():
        expected = io[key]
        if arbitrary and key.startswith(("thumbnail", "topk_ranked", "crop_sequence")):
            tensor, expected = (torch.tensor(len(x)) for x in (tensor, expected))
        golden.compare(f"{name}.{key}", tensor, expected)
    counts = {
        "unpadded_wh": list(region.size[::-1]),
        "valid_tokens": [len(s) for s in seen],
        "kept_thumbnail": len(first),
        "kept_per_crop": [len(k) for k in kept],
        "sequence_len_crops_incl_newlines": len(sequence),
    }
    for key, value in counts.items():
        golden.compare(f"{name}.{key}", torch.tensor(value), torch.tensor(case[key]))
