"""Official KARL checkpoints (`ShivamDuggal4/karl`, files outside the hub): key mapping and config inference,
pure functions. Read the file with `read_state_dict(path, prefer="ema")`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from visgen.checkpoints import klvae16
from visgen.checkpoints.common import State, build, count, renamed
from visgen.errors import InputError, shown
from visgen.tokenizers.karl import KARLTokenizer

IGNORED = re.compile(r"(gan_losses\.|criterion|.*\.criterion|base_tokenizer\.(vae|vqgan)\.loss\.)")
VAE = "base_tokenizer.vae."
NAMES = {
    "encoder.transformer.": "encoder.blocks.",
    "encoder_positional_embedding": "encoder.positions",
    "encoder_ln_pre.": "encoder.ln_pre.",
    "encoder_ln_post.": "encoder.ln_code.",
    "encoder_ln_post_halt.": "encoder.ln_halt.",
    "halting_mlp.": "encoder.halting.",
    "pre_quantizer_mlp.": "encoder.to_code.",
    "latent_tokens": "encoder.latents",
    "rec_loss_embeddings": "encoder.errors",
    "patch_embed.": "encoder.patch_embed.",
    "quantize.": "vq.",
    "decoder.transformer.": "decoder.blocks.",
    "decoder_positional_embedding": "decoder.positions",
    "decoder_mask_token": "decoder.query",
    "decoder_embed.": "decoder.from_code.",
    "decoder_latent_tokens_timestep_embed": "decoder.latent_positions",
    "base_tokenizer.vqgan.": "base_tokenizer.",
}


def convert(state: State) -> State:
    """Official keys → `KARLTokenizer` keys; discriminators and their LPIPS networks are dropped."""
    kept = _kept(state)
    out = {karl_key(key): tensor for key, tensor in kept.items() if not key.startswith(VAE)}
    if vae := _vae(kept):
        out |= {VAE + key: tensor for key, tensor in klvae16.convert(vae).items()}
    return out


def karl_key(key: str) -> str:
    """Our name of one official key outside the VAE."""
    for old, new in NAMES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _kept(state: State) -> State:
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return {key: tensor for key, tensor in state.items() if not IGNORED.match(key)}


def _vae(state: State) -> State:
    return {key.removeprefix(VAE): tensor for key, tensor in state.items() if key.startswith(VAE)}


def infer_config(state: State) -> dict[str, Any]:
    """Config of a tokenizer (our names) from the shapes of an official state dict.

    The image is 16 patches a side. Shapes do not tell heads; they are those of the published sizes.
    """
    state = _kept(state)
    base = _base_config(state)
    config = {
        "image_size": 16 * state["patch_embed.weight"].shape[-1],
        "base": base,
        "max_latents": state["latent_tokens"].shape[0],
        "num_tokens": min(256, state["latent_tokens"].shape[0]),
        "quantize": "quantize.embedding.weight" in state,
        "code_dim": state["decoder_embed.weight"].shape[1],
        "max_grid": state["encoder_positional_embedding"].shape[-1],
        "halt_width": state["halting_mlp.0.weight"].shape[0],
    }
    if config["quantize"]:
        config["codebook_size"] = state["quantize.embedding.weight"].shape[0]
    for side in ("encoder", "decoder"):
        width = state[f"{side}.transformer.0.ln_1.weight"].shape[0]
        layers = count(state, f"{side}.transformer.")
        config |= {f"{side}_width": width, f"{side}_layers": layers}
        config[f"{side}_heads"] = heads_of(width, layers)
    return config


def heads_of(width: int, layers: int) -> int:
    """Heads of the published sizes: 64 channels each, but 128 in "small" (width 1024, 8 layers)."""
    return 8 if (width, layers) == (1024, 8) else max(1, width // 64)


def _base_config(state: State) -> dict[str, Any]:
    if vae := _vae(state):
        return {"kind": "vae", **klvae16.infer_config(vae)}
    prefix = "base_tokenizer.vqgan."
    ch = state[f"{prefix}encoder.conv_in.weight"].shape[0]
    levels = count(state, f"{prefix}encoder.down.")
    widths = [state[f"{prefix}encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    codes, channels = state[f"{prefix}quantize.embedding.weight"].shape
    return {
        "kind": "vqgan",
        "ch": ch,
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": count(state, f"{prefix}encoder.down.0.block."),
        "embed_dim": channels,
        "n_embed": codes,
    }


SHAPES_TELL = (
    *("patch_size", "vq_codebook_size", "vq_token_dim", "max_grid_tokens", "factorize_latent"),
    *("base_tokenizer", "encoder", "decoder"),
)


def official_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config names → ours; what the shapes tell is left to them. Unknown names pass through, and are
    refused by the constructor."""
    ours = renamed(
        {k: v for k, v in official.items() if k not in SHAPES_TELL}, {"quantize_latent": "quantize"}
    )
    base = _section(official, "base_tokenizer")
    if "image_size" in base:
        ours["image_size"] = base["image_size"]
    for side in ("encoder", "decoder"):
        ours |= {f"{side}_{name}": value for name, value in _section(official, side).items()}
    return ours


def _section(config: dict[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise InputError(f"{name}={shown(section)} must be a mapping, such as {{'heads': 8}}")
    return section


def tokenizer_from_official(state: State, config: dict[str, Any] | None = None) -> KARLTokenizer:
    """Build a `KARLTokenizer` from an official state dict; config keys as in the official code, inferred when
    omitted."""
    ours = infer_config(state) | official_config(config or {})
    return build(KARLTokenizer, ours, convert(state), "the official KARL")
