"""Official FlexTok checkpoints (`EPFL-VILAB/flextok_*`): key mapping and config, pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from visgen.checkpoints.common import State, build, count, joined
from visgen.checkpoints.flextok_config import SIDES, Entry, checked, modules_of, sizes_of
from visgen.errors import InputError, shown
from visgen.tokenizers.flextok import FlexTokTokenizer

WRAPPER = "_checkpoint_wrapped_module."
RENAMED: Mapping[str, Mapping[str, str]] = {  # module of ours → official start of a key within it → ours
    "patches": {"patch_proj.": "patches.proj."},
    "positions": {"posembs": "patches.positions.pos_table"},
    "register_positions": {"posembs": "register_positions.pos_table"},
    "registers": {"registers": "registers"},
    "blocks": {"blocks.": "blocks."},
    "head": {"proj.": "head.", "adaLN_modulation.1.": "head_modulation."},
    "from_codes": {"proj.": "from_codes."},
    "mask_token": {"dropout_mask_token": "mask_token"},
    "null_token": {"nullcond": "null_token"},
    "time": {"mlp.": "time.mlp."},
}
IN_BLOCKS = {".mlp.fc2.": ".ffn.down.", ".adaLN_modulation.1.": ".modulation."}
FUSED = {  # one matrix of ours → those it is made of
    ".attn.qkv.": (".attn.wq.", ".attn.wk.", ".attn.wv."),
    ".ffn.gate_up.": (".mlp.fc1.", ".mlp.fc3."),
}
TABLE = "decoder.register_positions.pos_table"
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_KEY = re.compile(rf"(\.attentions\.\d+\.)({'|'.join(OLD_ATTENTION)})(?=\.)")
MAX_TIMESTEP = 1000.0  # of the official class, where the configuration does not say


def convert(state: State, config: Entry) -> State:
    """Official keys → `FlexTokTokenizer` keys, by the module names of `config`.

    Dropped are a head for alignment with another network's features and the autoencoder's `logvar`.
    """
    names = [{name: ours for ours, (name, _) in modules_of(config, side).items()} for side in (0, 1)]
    out: State = {}
    for key, tensor in state.items():
        ours = _key(key.replace(WRAPPER, ""), names)
        if ours is not None:
            out[ours] = _as_linear(ours, tensor)
    if (table := out.get(TABLE)) is not None and table.ndim > 2:
        out[TABLE] = table[..., : len(out["encoder.registers"])]  # of which no more are used
    return _fuse(out)


def _key(key: str, names: list[dict[str, str]]) -> str | None:
    """Our key, None for what is dropped; what is not known stays, for the strict check to name."""
    if key.startswith("vae."):
        if key.endswith(".logvar"):
            return None
        renamed = OLD_KEY.sub(lambda found: found[1] + OLD_ATTENTION[found[2]], key)
        return renamed.replace("vae.vae.", "codec.vae.", 1)
    section, _, rest = key.partition(".module_dict.")
    name, _, rest = rest.partition(".")
    if section not in SIDES or name not in names[SIDES.index(section)]:
        return key
    module = names[SIDES.index(section)][name]
    if module == "repa":
        return None
    for official, ours in RENAMED[module].items():
        if rest.startswith(official):
            return f"{section}.{_in_block(ours + rest.removeprefix(official))}"
    return key


def _in_block(key: str) -> str:
    for official, ours in IN_BLOCKS.items():
        key = key.replace(official, ours) if key.startswith("blocks.") else key
    return key


def _as_linear(key: str, tensor: Tensor) -> Tensor:
    """Attention of old autoencoders is made of 1×1 convolutions."""
    attention = ".attentions." in key and ".to_" in key
    return tensor[:, :, 0, 0] if attention and tensor.ndim == 4 else tensor


def _fuse(state: State) -> State:
    out = dict(state)
    for ours, parts in FUSED.items():
        for key in [key for key in out if parts[0] in key]:
            keys = [key.replace(parts[0], part) for part in parts]
            out[key.replace(parts[0], ours)] = joined(state, keys)
            for one in keys:
                del out[one]
    return out


def tokenizer_config(state: State, config: Entry) -> dict[str, Any]:
    """Our configuration from the official one, and from the shapes of a converted state dict."""
    (encoder, decoder), levels = (
        (modules_of(config, side) for side in (0, 1)),
        config["regularizer"]["levels"],
    )
    sizes = _trunk(encoder, "encoder"), _trunk(decoder, "decoder")
    latents = _latents(state, config["vae"])
    side = min(n * size["patch_size"] for size in sizes for n in size["position_sizes"])
    table = decoder.get("register_positions")
    expansion = state["decoder.blocks.0.modulation.weight"].shape[0] // (6 * sizes[1]["width"])
    return {
        "image_size": side * 2 ** (len(latents["block_out_channels"]) - 1),
        "latents": latents,
        "encoder_sizes": sizes[0],
        "decoder_sizes": sizes[1]
        | {
            "register_positions": None if table is None else table[1].get("posemb_type", "learnable_sum"),
            "adaln_expansion": expansion,
            "frequencies": state["decoder.time.mlp.0.weight"].shape[1],
            "max_timestep": decoder["time"][1].get("max_timestep", MAX_TIMESTEP),
        },
        "levels": tuple(levels),
        "num_registers": state["encoder.registers"].shape[0],
    }


def _trunk(modules: Mapping[str, tuple[str, Entry]], section: str) -> dict[str, Any]:
    blocks = modules["blocks"][1]
    table_name, table = modules["positions"]
    patches = modules["patches"][1].get("patch_sizes")
    if not isinstance(patches, (list, tuple)) or len(set(patches)) != 1:
        raise InputError(f"config.{section}: patch_sizes={shown(patches)} must be equal")
    return {
        "width": blocks["dim"],
        "depth": blocks["depth"],
        "head_dim": blocks.get("head_dim", 64),
        "mlp_ratio": blocks.get("mlp_ratio", 4.0),
        "patch_size": patches[0],
        "positions": table.get("posemb_type", "sincos"),
        "position_sizes": sizes_of(table, f"{section}.{table_name}"),
        "position_scaling": table.get("posemb_scaling", "absolute"),
    }


def _latents(state: State, vae: Entry) -> dict[str, Any]:
    """Keywords of `AutoencoderKL`: widths and depth from the shapes, the rest from `vae`.

    Raises:
        InputError: no scaling factor.
    """
    blocks = range(count(state, "codec.vae.encoder.down_blocks."))
    first = "codec.vae.encoder.down_blocks.{}.resnets.0.conv1.weight"
    factor = vae.get("scaling_factor")
    if not isinstance(factor, (int, float)):
        raise InputError(f"config.vae.scaling_factor={shown(factor)} must be a number")
    return {
        "kind": "AutoencoderKL",
        "latent_channels": state["codec.vae.post_quant_conv.weight"].shape[1],
        "block_out_channels": [state[first.format(i)].shape[0] for i in blocks],
        "layers_per_block": count(state, "codec.vae.encoder.down_blocks.0.resnets."),
        "down_block_types": ["DownEncoderBlock2D" for _ in blocks],
        "up_block_types": ["UpDecoderBlock2D" for _ in blocks],
        "norm_num_groups": vae.get("norm_num_groups", 32),
        "scaling_factor": factor,
    }


def tokenizer_from_official(state: State, config: dict[str, Any] | None = None) -> FlexTokTokenizer:
    """Build a `FlexTokTokenizer` from an official state dict.

    Args:
        state: official keys.
        config: content of the checkpoint's `config.json`, or the metadata of its safetensors file, whose
            sections are strings. `vae` may have `norm_num_groups`, 32 otherwise.

    Raises:
        InputError: no configuration (heads, levels, scales stand in no shape), a class that is not known, or
            weights that do not fit.
    """
    if config is None:
        raise InputError(
            "config=None: shapes do not tell FlexTok's levels, heads and scales; "
            "give the content of config.json, or of the header of the safetensors file"
        )
    known = checked(config)
    converted = convert(state, known)
    return build(FlexTokTokenizer, tokenizer_config(converted, known), converted, "the official FlexTok")
