"""The KL-16 VAE of MAR and xAR (`kl16.ckpt`; KARL holds one too) as diffusers' `AutoencoderKL`: key mapping
and config inference, pure functions."""

from __future__ import annotations

import re
from typing import Any

from diffusers import AutoencoderKL

from visgen.checkpoints.common import State, build, count
from visgen.tokenizers.karl_bases import KL16

SCALING_FACTOR = 0.2325  # 1 / standard deviation of the latents on ImageNet
IGNORED = ("loss.",)
MID = {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_LEVEL = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.(block|attn|downsample|upsample)\.(?:(\d+)\.)?(.+)")


def convert(state: State) -> State:
    """Official keys → `AutoencoderKL` keys; weights of attention lose their two trailing axes."""
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(IGNORED)}
    levels = count(kept, "decoder.up.")
    out = {}
    for key, tensor in kept.items():
        name = klvae_key(key, levels)
        flat = ".attentions." in name and tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
        out[name] = tensor.flatten(1) if flat else tensor
    return out


def klvae_key(key: str, levels: int) -> str:
    """The diffusers name of one official key; `levels` there are."""
    parts = key.split(".")
    if len(parts) > 3 and parts[1] == "mid" and parts[2] in MID:
        rest = _attention(parts[3:]) if parts[2] == "attn_1" else parts[3:]
        key = ".".join([parts[0], "mid_block", MID[parts[2]], *rest])
    elif found := _LEVEL.fullmatch(key):
        key = _level_key(*found.groups(), levels=levels)
    return key.replace(".norm_out.", ".conv_norm_out.").replace(".nin_shortcut.", ".conv_shortcut.")


def _level_key(side: str, level: str, kind: str, index: str | None, rest: str, *, levels: int) -> str:
    up = side == "decoder.up"  # whose levels diffusers numbers as they run, from the coarsest
    block = f"decoder.up_blocks.{levels - 1 - int(level)}" if up else f"encoder.down_blocks.{level}"
    if kind in ("downsample", "upsample"):
        return f"{block}.{kind}rs.0.{rest}"
    if kind == "attn":
        return ".".join([block, "attentions", str(index), *_attention(rest.split("."))])
    return f"{block}.resnets.{index}.{rest}"


def _attention(parts: list[str]) -> list[str]:
    return [ATTENTION.get(parts[0], parts[0]), *parts[1:]]


def infer_config(state: State) -> dict[str, Any]:
    """Keywords of `AutoencoderKL` from the shapes of an official state dict; 16 positions a side."""
    levels = count(state, "encoder.down.")
    widths = tuple(state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels))
    down = [_kind(state, f"encoder.down.{i}.attn.", "{}DownEncoderBlock2D") for i in range(levels)]
    up = [_kind(state, f"decoder.up.{i}.attn.", "{}UpDecoderBlock2D") for i in reversed(range(levels))]
    return {
        "block_out_channels": widths,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "layers_per_block": count(state, "encoder.down.0.block."),
        "latent_channels": state["post_quant_conv.weight"].shape[1],
        "sample_size": 16 * 2 ** (levels - 1),
        "scaling_factor": SCALING_FACTOR,
    }


def _kind(state: State, prefix: str, name: str) -> str:
    return name.format("Attn" if any(key.startswith(prefix) for key in state) else "")


def vae_from_official(state: State, config: dict[str, Any] | None = None) -> AutoencoderKL:
    """Build an `AutoencoderKL` from an official state dict; config keys are those of diffusers, inferred when
    omitted. Pixels are in [-1, 1]; generators work on latents times `scaling_factor`."""
    ours = KL16 | infer_config(state) | (config or {})
    return build(_autoencoder, ours, convert(state), "the official KL-16 VAE")


def _autoencoder(**config: Any) -> AutoencoderKL:
    """Its own annotations say tuples of one, which checking by signature would take at their word."""
    return AutoencoderKL(**config)
