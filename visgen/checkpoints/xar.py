"""Official xAR checkpoints (`OliverRensu/xAR`): key mapping and config inference, pure functions."""

from __future__ import annotations

import math
from typing import Any

from visgen.checkpoints.common import State, build, count, joined, renamed
from visgen.errors import InputError
from visgen.generators.xar import XARGenerator

NAMES = {
    "dim": "hidden_size",
    "enc_depth": "encoder_depth",
    "dec_depth": "decoder_depth",
    "heads": "num_heads",
}
# Name → width, blocks of either stack, heads, MLP
SIZES = {"b": (768, 8, 12, 2048), "l": (1024, 16, 16, 2730), "h": (1280, 20, 16, 3413)}
HEADS = {width: heads for width, _, heads, _ in SIZES.values()}
KEYS = (
    ("class_emb.", "condition_embed.embed."),
    ("time_embed.mlp.0.", "time_embed.mlp.linear_1."),
    ("time_embed.mlp.2.", "time_embed.mlp.linear_2."),
    ("_pos_embed_learned", "_pos"),
    (".ada_lin.1.", ".modulation."),
    (".mlp.fc2.", ".ffn.down."),
)


def convert(state: State) -> State:
    """Official keys → `XARGenerator` keys; tables that follow from the config are dropped."""
    out = {}
    for key, tensor in state.items():
        if key == "mask" or ".attn.rope." in key or ".mlp.fc1_x." in key:
            continue
        if ".mlp.fc1_g." in key:
            name = key.replace(".mlp.fc1_g.", ".ffn.gate_up.")
            out[name] = joined(state, [key, key.replace("fc1_g", "fc1_x")])
        else:
            out[_renamed(key)] = tensor
    return out


def _renamed(key: str) -> str:
    for old, new in KEYS:
        key = key.replace(old, new)
    return key


def infer_config(state: State) -> dict[str, Any]:
    """Config (our names) from the shapes of an official state dict; the grid is square.

    Raises:
        InputError: a number of positions that is no square.
    """
    length, width = state["encoder_pos_embed_learned"].shape[1:]
    side = math.isqrt(length)
    if side * side != length:
        raise InputError(f"xAR of {length} positions: only square grids are known")
    return {
        "grid": (side, side),
        "latent_channels": state["z_proj.weight"].shape[1],
        "entities": {"kind": "cell", "size": _cell(state, side)},
        "hidden_size": width,
        "encoder_depth": count(state, "encoder_blocks."),
        "decoder_depth": count(state, "decoder_blocks."),
        "num_heads": _heads(state, width),
        "mlp_size": state["encoder_blocks.0.mlp.fc1_g.weight"].shape[0],
        "num_classes": state["class_emb.weight"].shape[0] - 1,
    }


def _cell(state: State, side: int) -> int:
    """Side of a cell, of which the mask's first row sees all positions; without a mask half the image's."""
    mask = state.get("mask")
    if mask is None or mask.is_meta:
        return max(1, side // 2)
    return math.isqrt(int((mask.flatten(0, -2)[0] == 0).sum()))


def _heads(state: State, width: int) -> int:
    """Heads from the number of rotary frequencies, a quarter of a head's width; else as published."""
    frequencies = state.get("encoder_blocks.0.attn.rope.freqs")
    if frequencies is not None:
        return width // (4 * len(frequencies))
    return HEADS.get(width, max(1, width // 64))


def generator_from_official(state: State, config: dict[str, Any] | None = None) -> XARGenerator:
    """Build an `XARGenerator` from an official state dict; config keys: dim, enc_depth, dec_depth and heads,
    inferred when omitted."""
    ours = infer_config(state) | renamed(config or {}, NAMES)
    return build(XARGenerator, ours, convert(state), "the official xAR")


def sampling_from_official(num_steps: int, cfg: float = 1.0, *, ode: bool = False) -> dict[str, Any]:
    """Official sampling arguments → `EntitySampling` keywords; a cfg of 1 or less guides nothing."""
    return {
        "num_inference_steps": num_steps,
        "solver": "ode" if ode else "sde",
        "guidance_scale": max(float(cfg), 1.0),
        "guidance_schedule": "linear",
    }
