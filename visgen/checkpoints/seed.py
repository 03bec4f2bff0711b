"""Official SEED tokenizers (`AILab-CVC/seed-tokenizer-2`) and first-stage models: key mapping and config
inference, pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from visgen.checkpoints.common import State, build, count, joined
from visgen.errors import InputError, shown
from visgen.tokenizers.seed import SEEDTokenizer
from visgen.tokenizers.seed_contrastive import SEEDContrastive

VISION_HEAD = 88  # channels per head of EVA-CLIP ViT-g, and 64 of BERT's: heads are not in the shapes
BERT_HEAD = 64
DECODER_HEADS = 12  # of both stacks of blocks, whatever their width
# Names inside a block: official → `PlainBlock`
BLOCK_NAMES = {
    "norm1.": "ln_1.",
    "norm2.": "ln_2.",
    "attn.proj.": "attn.out_proj.",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
# Names inside a Q-Former: official → transformers'
QFORMER_NAMES = {
    "bert.embeddings.LayerNorm.": "layernorm.",
    "bert.encoder.": "encoder.",
    ".attention.self.": ".attention.attention.",
    ".crossattention.self.": ".crossattention.attention.",
}
TEXT_TABLES = ("word_embeddings", "position_embeddings")


def convert(state: State, *, text: bool = False) -> State:
    """Official keys → those of `SEEDTokenizer`, or with `text` of `SEEDContrastive`.

    Left out are position counters, and without `text` the text branch: tables, feed-forward layers of words
    and the language head.
    """
    out: State = {}
    for key, tensor in state.items():
        name, _, rest = key.partition(".")
        if _is_ignored(key, text):
            continue
        if name in ("Qformer", "Reverse_Qformer"):
            if any(f".{table}." in key for table in TEXT_TABLES):
                out[rest.removeprefix("bert.embeddings.")] = tensor
            else:
                out[f"{name.lower()}.{_replaced(rest, QFORMER_NAMES)}"] = tensor
        elif key.endswith("attn.q_bias"):
            out[key.replace("q_bias", "in_proj_bias")] = _vision_bias(state, key)
        elif not key.endswith("attn.v_bias"):
            out[_replaced(key, BLOCK_NAMES) if "blocks" in key else key] = tensor
    return out


def _is_ignored(key: str, text: bool) -> bool:
    if key.endswith(".position_ids") or ".cls." in key or key.startswith("itm_head."):
        return True
    words = ".intermediate." in key or (".output." in key and "attention." not in key)
    tables = any(f".{table}." in key for table in TEXT_TABLES)
    return key.split(".")[0] in ("Qformer", "Reverse_Qformer") and (words or tables) and not text


def _replaced(key: str, names: Mapping[str, str]) -> str:
    for official, ours in names.items():
        key = key.replace(official, ours)
    return key


def _vision_bias(state: State, key: str) -> torch.Tensor:
    """q and v biases with zeros for k, which has none."""
    q, v = joined(state, [key, key.replace("q_bias", "v_bias")]).chunk(2)
    return torch.cat([q, torch.zeros_like(q), v])


def infer_vision(state: State) -> dict[str, Any]:
    """What the shapes tell of the vision transformer; heads as in EVA-CLIP."""
    width, _, patch, _ = state["visual_encoder.patch_embed.proj.weight"].shape
    patches = state["visual_encoder.pos_embed"].shape[1] - 1
    return {
        "image_size": math.isqrt(patches) * patch,
        "patch_size": patch,
        "vision_width": width,
        "vision_depth": count(state, "visual_encoder.blocks."),
        "vision_heads": max(1, width // VISION_HEAD),
        "vision_mlp": state["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
    }


def infer_qformer(state: State) -> dict[str, Any]:
    """What the shapes tell of the causal Q-Former; heads as in BERT."""
    _, queries, width = state["query_tokens"].shape
    layers = "Qformer.bert.encoder.layer."
    crossing = sorted(
        {
            int(k[len(layers) :].split(".")[0])
            for k in state
            if ".crossattention." in k and k.startswith(layers)
        }
    )
    return {
        "num_queries": queries,
        "hidden_size": width,
        "qformer_depth": count(state, layers),
        "num_heads": max(1, width // BERT_HEAD),
        "mlp_size": state[f"{layers}0.intermediate_query.dense.weight"].shape[0],
        "cross_attention_every": crossing[1] if len(crossing) > 1 else count(state, layers),
    }


def infer_config(state: State) -> dict[str, Any]:
    """Config of a `SEEDTokenizer` from an official state dict; its head by the keys that are there."""
    codes, channels = state["quantize.embedding.weight"].shape
    reverse = any(key.startswith("Reverse_Qformer.") for key in state)
    config = {
        "codebook_size": codes,
        "code_dim": channels,
        "decoder_depth": count(state, "blocks_image."),
        "decoder_heads": DECODER_HEADS,
        "head": "reverse" if reverse else "mlp",
        "embedding_dim": state["distill_image_proj.weight"].shape[0],
        "auxiliary": "pos_embed" in state,
    }
    if not reverse:
        layers = range(0, count(state, "image_down."), 2)
        config["head_sizes"] = tuple(state[f"image_down.{i}.weight"].shape[0] for i in layers)
    return infer_vision(state) | infer_qformer(state) | config


def infer_contrastive(state: State) -> dict[str, Any]:
    """Config of a `SEEDContrastive` from an official state dict, with or without its vision transformer."""
    embeddings = "Qformer.bert.embeddings."
    words, _ = state[f"{embeddings}word_embeddings.weight"].shape
    vision: dict[str, Any] = {"vision_depth": 0, "vision_width": state["ln_vision.weight"].shape[0]}
    if any(key.startswith("visual_encoder.") for key in state):
        vision = infer_vision(state)
    texts = {
        "vocab_size": words,
        "max_length": state[f"{embeddings}position_embeddings.weight"].shape[0],
        "projection_dim": state["vision_proj.weight"].shape[0],
    }
    return vision | infer_qformer(state) | texts


# Official section and name → ours; what a section holds besides is told by the shapes
SECTIONS = {
    "vit": {
        "img": "image_size",
        "patch": "patch_size",
        "dim": "vision_width",
        "depth": "vision_depth",
        "heads": "vision_heads",
        "mlp_hidden": "vision_mlp",
    },
    "qformer": {
        "hidden": "hidden_size",
        "layers": "qformer_depth",
        "heads": "num_heads",
        "intermediate": "mlp_size",
        "cross_attention_frequency": "cross_attention_every",
        "num_query": "num_queries",
        "vocab": "vocab_size",
        "max_position_embeddings": "max_length",
    },
    "codebook": {"n_embed": "codebook_size", "dim": "code_dim"},
}
PLAIN = {
    "decode_depth": "decoder_depth",
    "decode_heads": "decoder_heads",
    "image_features_dim": "embedding_dim",
    "vision_width": "vision_width",
    "proj_dim": "projection_dim",
    "temperature": "temperature",
}
NEUTRAL = {"norm_eps": 1e-6, "layer_norm_eps": 1e-12}
OF_TEXT = ("vocab_size", "max_length")


def official_config(official: Mapping[str, Any], *, text: bool = False) -> dict[str, Any]:
    """Configuration by our names, from the sections "vit", "qformer" and "codebook" and plain keys.

    Raises:
        InputError: an unknown key, or an epsilon that these models do not have.
    """
    ours: dict[str, Any] = {}
    for key, value in official.items():
        if key in SECTIONS:
            ours |= _section(key, value)
        elif key == "use_qformer_image":
            ours["head"] = "reverse" if value else "mlp"
        elif key in PLAIN:
            ours[PLAIN[key]] = value
        else:
            known = ", ".join([*SECTIONS, *PLAIN, "use_qformer_image"])
            raise InputError(f"config key {shown(key)} is unknown; known are {known}")
    return ours if text else {k: v for k, v in ours.items() if k not in OF_TEXT}


def _section(name: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(f"config {name}={shown(values)} must be a mapping")
    for key, value in values.items():
        if key not in SECTIONS[name] and key not in NEUTRAL:
            raise InputError(f"config {name}.{key} is unknown; known are {', '.join(SECTIONS[name])}")
        if key in NEUTRAL and value != NEUTRAL[key]:
            raise InputError(
                f"config {name}.{key}={shown(value)} is not supported; it must be {NEUTRAL[key]}"
            )
    return {ours: values[key] for key, ours in SECTIONS[name].items() if values.get(key) is not None}


def tokenizer_from_official(state: State, config: dict[str, Any] | None = None) -> SEEDTokenizer:
    """Build a `SEEDTokenizer` from an official state dict, its de-tokenizer's head by the keys.

    Config keys are those of `official_config`, inferred when omitted.

    Raises:
        InputError: a config that contradicts the weights.
    """
    ours = infer_config(state) | official_config(config or {})
    if "head" in ours and ours["head"] != infer_config(state)["head"]:
        raise InputError(f"use_qformer_image: the weights have the head {infer_config(state)['head']!r}")
    return build(SEEDTokenizer, ours, convert(state), "the official SEED tokenizer")


def contrastive_from_official(state: State, config: dict[str, Any] | None = None) -> SEEDContrastive:
    """Build a `SEEDContrastive` from an official first-stage state dict; config as above."""
    ours = infer_contrastive(state) | official_config(config or {}, text=True)
    return build(SEEDContrastive, ours, convert(state, text=True), "the official first stage of SEED")
