"""Official LANTERN drafters (`jadohu/LANTERN`): key mapping and config inference, pure functions."""

from __future__ import annotations

from typing import Any

import torch

from visgen.checkpoints.common import State, build, count, renamed
from visgen.errors import InputError
from visgen.generators.drafter import Drafter

# Text positions and token grid by the official `input_type`; inputs are shifted by one, so 119 of 120 remain.
INPUT_TYPES = {"t2i": (119, (16, 16)), "t2i2": (119, (32, 32)), "c2i": (0, (24, 24))}
HEAD_SIZE = 64  # of LlamaGen; Chameleon's is told by its query norm

MODULES = {
    "embed_tokens.": "embedding.",
    "self_attn.o_proj.": "attn.proj.",
    "self_attn.q_norm.": "attn.q_norm.",
    "self_attn.k_norm.": "attn.k_norm.",
    "mlp.down_proj.": "ffn.down.",
    "post_attention_layernorm.": "norm2.",
    "input_layernorm.": "norm1.",
}
FUSED = {"attn.qkv": ("self_attn", "q", "k", "v"), "ffn.gate_up": ("mlp", "gate", "up")}


def convert_drafter(state: State) -> State:
    """Official drafter keys → `Drafter` keys; projections of the same input are joined.

    Chameleon turns channels (j, j + D/2) of a head, we turn neighbours: queries and keys are reordered.
    """
    state = neighbours(state)
    for layer in range(count(state, "layers.")):
        for name, (group, *parts) in FUSED.items():
            keys = [f"layers.{layer}.{group}.{part}_proj.weight" for part in parts]
            state[f"layers.{layer}.{name}.weight"] = torch.cat([state.pop(key) for key in keys])
    return {_renamed(key): tensor for key, tensor in state.items()}


def _renamed(key: str) -> str:
    for old, new in MODULES.items():
        key = key.replace(old, new)
    return key


def neighbours(state: State) -> State:
    """A copy with channels (0, D/2, 1, D/2 + 1, …) of each head in queries and keys; of a drafter that is not
    Chameleon's as they are."""
    norm, out = state.get("layers.0.self_attn.q_norm.weight"), dict(state)
    if norm is None:
        return out
    size = norm.shape[1]
    order = torch.arange(size).view(2, -1).T.flatten()
    for key, tensor in state.items():
        if ".q_norm." in key or ".k_norm." in key:
            out[key] = tensor[:, order]
        elif ".q_proj." in key or ".k_proj." in key:
            out[key] = tensor.unflatten(0, (-1, size))[:, order].flatten(0, 1)
    return out


def infer_drafter_config(state: State, num_heads: int | None = None) -> dict[str, Any]:
    """Config (our names) from the shapes of an official state dict; LlamaGen's is taken for stage 1."""
    q_norm = state.get("layers.0.self_attn.q_norm.weight")
    hidden_size = state["fc.weight"].shape[0]
    if num_heads is None:
        num_heads = hidden_size // HEAD_SIZE if q_norm is None else q_norm.shape[0]
    chameleon = q_norm is not None
    return {
        "hidden_size": hidden_size,
        "mlp_size": state["layers.0.mlp.down_proj.weight"].shape[1],
        "depth": count(state, "layers."),
        "num_heads": num_heads,
        "num_kv_heads": state["layers.0.self_attn.k_proj.weight"].shape[0] * num_heads // hidden_size,
        "norm_eps": 1e-5 if chameleon else 1e-6,
        "fc_bias": "fc.bias" in state,
        "first_norm": "layers.0.input_layernorm.weight" in state,
        "qk_norm": "layer" if chameleon else "none",
        "rope": "line" if chameleon else "grid",
        "prefix_length": INPUT_TYPES["t2i"][0],
        "grid": INPUT_TYPES["t2i"][1],
        "vocab_size": state["embed_tokens.weight"].shape[0],
    }


NAMES = {
    "intermediate_size": "mlp_size",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_base",
}
USED = (*NAMES, "hidden_size", "vocab_size")


def drafter_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config names → ours.

    The file is the base model's `config.json`: what says nothing of the drafter's layers (token ids, dropout,
    names of classes) is left out. `input_type` is "t2i", "t2i2" or "c2i".

    Raises:
        InputError: another input type.
    """
    ours = renamed({key: value for key, value in official.items() if key in USED}, NAMES)
    kind = official.get("input_type")
    if kind is None:
        return ours
    if kind not in INPUT_TYPES:
        raise InputError(f"input_type={kind!r} must be one of {', '.join(INPUT_TYPES)}")
    prefix, grid = INPUT_TYPES[kind]
    return ours | {"prefix_length": prefix, "grid": grid}


def drafter_from_official(state: State, config: dict[str, Any] | None = None) -> Drafter:
    """Build a `Drafter` from an official state dict; config keys as in its `config.json`, inferred when
    omitted."""
    given = drafter_config(config or {})
    ours = infer_drafter_config(state, given.get("num_heads")) | given
    return build(Drafter, ours, convert_drafter(state), "the official LANTERN drafter")
