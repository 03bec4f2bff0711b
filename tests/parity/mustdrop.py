"""Parity of MustDrop: the merge, the tower with it, and the language model with filter and cut cache."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.parity.mustdrop_llm_stages import check_language_model
from tests.parity.report import Golden
from visgen.pruning.scoring import cls_products
from visgen.pruning.spatial_merge import SpatialMerge, key_tokens, spatial_merge

Tensors = dict[str, Tensor]
INPUTS = (
    "weights.*",
    "pixel_values",
    "*.hidden_in",
    "*.inputs_embeds",
    "*.key_set",
    "*.decode_input_tokens",
)
KEY_RATE = 0.08  # of the released code, in no configuration


@torch.no_grad()
def check(golden: Golden) -> None:
    """Every file by what it holds."""
    for file, entry in golden.meta["files"].items():
        tensors = load_file(golden.folder / file)
        if "pruning_layers" in entry:
            check_language_model(golden, entry, tensors)
        elif "config" in entry:
            check_tower(golden, entry, tensors)
        else:
            check_merges(golden, entry, tensors)
        golden.finish(tensors, INPUTS)


def check_merges(golden: Golden, entry: dict[str, Any], tensors: Tensors) -> None:
    """The merge alone: tokens, their sizes, and which patches went into them."""
    for name, case in entry["cases"].items():
        hidden, window = tensors[f"{name}.hidden_in"], tuple(case["window"])
        merge = spatial_merge(hidden, threshold=case["threshold"], window=window)
        golden.compare(f"{name}.r", torch.tensor(merge.num_merged), torch.tensor(case["merged_windows_r"]))
        golden.compare(f"{name}.merged", merge.hidden_BMD, tensors[f"{name}.merged"])
        golden.compare(f"{name}.size", merge.sizes_BM.float(), tensors[f"{name}.size"])
        golden.compare(f"{name}.source", incidence(merge), tensors[f"{name}.source"].long())


def incidence(merge: SpatialMerge) -> Tensor:
    """(B, M, 1 + N) of 0 and 1: which originals feed each row, CLS among both."""
    rows = F.pad(merge.rows_BN, (1, 0))
    return F.one_hot(rows, merge.hidden_BMD.shape[1]).mT


def check_tower(golden: Golden, entry: dict[str, Any], tensors: Tensors) -> None:
    """A CLIP tower of transformers with the merge behind its first layer, and the last layer's key set."""
    tower = CLIPVisionModel(CLIPVisionConfig(**entry["config"])).eval()
    prefix = "weights.vision_model."
    tower.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    threshold, height, width = re.search(r"thr ([\d.]+), window (\d+)x(\d+)", entry["stage"]).groups()
    seen: Tensors = {}

    def merge(module: Any, inputs: Any, hidden: Tensor) -> Tensor:
        seen["after_0"] = hidden
        window = (int(height), int(width))
        return spatial_merge(hidden, threshold=float(threshold), window=window).hidden_BMD

    last = tower.encoder.layers[-1].self_attn
    tower.encoder.layers[0].register_forward_hook(merge)
    for part in ("q_proj", "k_proj"):
        getattr(last, part).register_forward_hook(lambda m, i, out, part=part: seen.update({part: out}))
    out = tower(tensors["pixel_values"], output_hidden_states=True)
    golden.compare("hidden_after_layer0", seen["after_0"], tensors["hidden_after_layer0"])
    golden.compare("hidden_states_1", out.hidden_states[1], tensors["hidden_states_1"])
    features = out.hidden_states[-2][:, 1:]
    golden.compare("image_features_pre_projector", features, tensors["image_features_pre_projector"])
    golden.compare("last_hidden_state", out.last_hidden_state, tensors["last_hidden_state"])
    products = cls_products(seen["q_proj"], seen["k_proj"], last.num_heads)
    keys = key_tokens(products.softmax(dim=-1).mean(dim=1)[:, 1:], KEY_RATE)
    golden.compare("key_set_ranked", keys, tensors["key_set_ranked"])
