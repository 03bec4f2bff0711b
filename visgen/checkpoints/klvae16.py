"""The KL-16 VAE of MAR and xAR (`kl16.ckpt`; KARL holds one too) as `KLTokenizer` and as diffusers'
`AutoencoderKL`: key mapping and config inference, pure functions."""

from __future__ import annotations

import re
import warnings
from typing import Any

from diffusers import AutoencoderKL

from visgen.checkpoints.common import State, build, count, renamed, without
from visgen.errors import InputError, shown
from visgen.tokenizers.kl import KLTokenizer
from visgen.tokenizers.kl_networks import KL16, KL16_SCALING_FACTOR

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
        "scaling_factor": KL16_SCALING_FACTOR,
    }


def _kind(state: State, prefix: str, name: str) -> str:
    return name.format("Attn" if _has(state, prefix) else "")


def _has(state: State, prefix: str) -> bool:
    return any(key.startswith(prefix) for key in state)


def vae_from_official(state: State, config: dict[str, Any] | None = None) -> AutoencoderKL:
    """Build an `AutoencoderKL` from an official state dict; config keys are those of diffusers, inferred when
    omitted. Pixels are in [-1, 1]; generators work on latents times `scaling_factor`."""
    ours = {**KL16, **infer_config(state), **(config or {})}
    return build(_autoencoder, ours, convert(state), "the official KL-16 VAE")


def _autoencoder(**config: Any) -> AutoencoderKL:
    """Its own annotations say tuples of one, which checking by signature would take at their word."""
    return AutoencoderKL(**config)


CONVOLUTIONS = ("quant_conv.", "post_quant_conv.")  # which `KLTokenizer` has itself
OURS = ("encoder.", "decoder.", *CONVOLUTIONS)
NAMES = {"resolution": "image_size", "scale_factor": "scaling_factor"}
# What the network cannot have otherwise
NEUTRAL = {"double_z": True, "norm_eps": 1e-6, "dropout": 0.0, "in_channels": 3, "out_ch": 3}


def convert_tokenizer(state: State) -> State:
    """Official keys → `KLTokenizer` keys."""
    return {
        key if key.startswith(CONVOLUTIONS) else f"autoencoder.vae.{key}": tensor
        for key, tensor in convert(state).items()
    }


def infer_tokenizer_config(state: State) -> dict[str, Any]:
    """Config of a `KLTokenizer` from the shapes of an official state dict; 16 positions a side."""
    network = infer_config(state)
    size, scale = network.pop("sample_size"), network.pop("scaling_factor")
    told = told_by_shapes(state)
    return {
        "image_size": size,
        "network": {"kind": "AutoencoderKL", **network, "latent_channels": told["z_channels"]},
        "latent_channels": told["embed_dim"],
        "scaling_factor": scale,
        "variational": told["use_variational"],
    }


def told_by_shapes(state: State) -> dict[str, Any]:
    """Official configuration keys that the shapes of a state dict tell."""
    levels = range(count(state, "encoder.down."))
    widths = [state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in levels]
    ch, embed_dim = state["encoder.conv_in.weight"].shape[0], state["post_quant_conv.weight"].shape[1]
    return {
        "ch": ch,
        "ch_mult": [width // ch for width in widths],
        "num_res_blocks": count(state, "encoder.down.0.block."),
        "z_channels": state["decoder.conv_in.weight"].shape[1],
        "embed_dim": embed_dim,
        "encoder_attn_levels": [i for i in levels if _has(state, f"encoder.down.{i}.attn.")],
        "decoder_attn_levels": [i for i in levels if _has(state, f"decoder.up.{i}.attn.")],
        "use_variational": state["quant_conv.weight"].shape[0] != embed_dim,
    }


def tokenizer_config(official: dict[str, Any], state: State) -> dict[str, Any]:
    """Official configuration → ours, without what the shapes of `state` tell.

    Raises:
        InputError: values that the weights contradict, or that `KLTokenizer` cannot have.
    """
    told, rest = told_by_shapes(state), without(official, NEUTRAL)
    for key, found in told.items():
        value = rest.pop(key, found)
        if (list(value) if isinstance(value, tuple) else value) != found:
            raise InputError(f"config.{key}={shown(value)} does not fit the weights, which have {found}")
    groups = rest.pop("norm_groups", KL16["norm_num_groups"])
    network = infer_tokenizer_config(state)["network"] | {"norm_num_groups": groups}
    return renamed(rest, NAMES) | {"network": network}


def tokenizer_from_official(state: State, config: dict[str, Any] | None = None) -> KLTokenizer:
    """Build a `KLTokenizer` from an official state dict. Tensors beside encoder, decoder and the convolutions
    between them are left out, as the official code does, and a warning names them.

    Config keys are those of the official code (ch, ch_mult, num_res_blocks, z_channels, embed_dim,
    encoder_attn_levels, decoder_attn_levels, norm_groups, use_variational, resolution, scale_factor),
    inferred when omitted, all but norm_groups (32), resolution (16 positions a side) and scale_factor
    (0.2325).
    """
    kept = {key: tensor for key, tensor in state.items() if key.startswith(OURS)}
    if unknown := [key for key in state if not key.startswith((*OURS, *IGNORED))]:
        told = f"{len(unknown)} tensors that the KL-16 VAE does not have ({', '.join(unknown[:3])})"
        warnings.warn(f"state_dict: left out {told}", UserWarning, stacklevel=3)
    ours = infer_tokenizer_config(kept) | tokenizer_config(config or {}, kept)
    return build(KLTokenizer, ours, convert_tokenizer(kept), "the official KL-16 tokenizer")
