"""Official VAR checkpoints (`FoundationVision/var`): key mapping and config inference, pure functions."""

from __future__ import annotations

import math
from typing import Any

import torch

from visgen.checkpoints.common import State, build
from visgen.errors import InputError
from visgen.generators.var import VARTransformer
from visgen.tokenizers.var import VARTokenizer

SCALES = {
    680: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    2240: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    9451: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}
TOKENIZER_IGNORED = ("quantize.ema_vocab_hit_SV",)
TRANSFORMER_IGNORED = ("lvl_1L", "attn_bias_for_masking")  # tables that follow from the config
PHI_PREFIXES = ("quantize.quant_resi.qresi_ls.", "quantize.quant_resi.qresi.", "quantize.quant_resi.")


def convert_tokenizer(state: State) -> State:
    """Official tokenizer keys → `VARTokenizer` keys."""
    return {_tokenizer_key(key): tensor for key, tensor in state.items() if key not in TOKENIZER_IGNORED}


def _tokenizer_key(key: str) -> str:
    key = key.removeprefix("module.")
    if key.startswith("quantize.quant_resi.qresi."):
        return "vq.phi.0." + key.removeprefix("quantize.quant_resi.qresi.")
    for prefix in PHI_PREFIXES:
        if key.startswith(prefix):
            return "vq.phi." + key.removeprefix(prefix)
    return key.replace("quantize.", "vq.", 1) if key.startswith("quantize.") else key


def convert_transformer(state: State) -> State:
    """Official transformer keys → `VARTransformer` keys; tables that follow from the config are dropped."""
    kept = (key for key in state if key not in TRANSFORMER_IGNORED and not key.endswith("attn.zero_k_bias"))
    return {_transformer_key(key): state[key] for key in kept}


def _transformer_key(key: str) -> str:
    for old, new in (
        ("attn.mat_qkv.", "attn.qkv."),
        (".ada_lin.1.", ".modulation."),
        ("shared_ada_lin.1.", "shared_modulation."),
        (".ada_gss", ".modulation_offset"),
        ("head_nm.", "head_norm."),
    ):
        key = key.replace(old, new)
    return key


def infer_tokenizer_config(state: State) -> dict[str, Any]:
    """Config of a tokenizer (our names) from the shapes of an official state dict; scales are VAR's 256-pixel
    list."""
    codebook = state["quantize.embedding.weight"]
    levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down."))
    ch = state["encoder.conv_in.weight"].shape[0]
    blocks = [int(key.split(".")[4]) for key in state if key.startswith("encoder.down.0.block.")]
    widths = [state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    return {
        "codebook_size": codebook.shape[0],
        "latent_channels": codebook.shape[1],
        "in_channels": state["encoder.conv_in.weight"].shape[1],
        "ch": ch,
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": 1 + max(blocks),
        "quant_conv_kernel": state["quant_conv.weight"].shape[-1],
        **_infer_phi(state),
    }


def _infer_phi(state: State) -> dict[str, Any]:
    phis = {_tokenizer_key(key).split(".")[2] for key in state if key.startswith("quantize.quant_resi.")}
    return {"num_phi": len(phis)} if phis else {"phi_ratio": 0.0}


TOKENIZER_NAMES = {
    "vocab_size": "codebook_size",
    "z_channels": "latent_channels",
    "v_patch_nums": "scales",
    "share_quant_resi": "num_phi",
    "quant_resi": "phi_ratio",
    "using_znorm": "cosine_codes",
    "resnet_groups": "norm_groups",
}


def tokenizer_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config names → ours; unknown names pass through (and are refused by the constructor)."""
    return {TOKENIZER_NAMES.get(key, key): value for key, value in official.items()}


def tokenizer_from_official(state: State, config: dict[str, Any] | None = None) -> VARTokenizer:
    """Build a `VARTokenizer` from an official state dict; config keys as in the official code, inferred when
    omitted."""
    inferred = infer_tokenizer_config(state)
    ours = inferred | tokenizer_config(config or {})
    return build(VARTokenizer, ours, convert_tokenizer(state), "the official VAR tokenizer")


def infer_transformer_config(state: State) -> dict[str, Any]:
    """Config of a transformer (our names) from an official state dict: shapes, and the level of each token.

    Raises:
        InputError: no `lvl_1L` table, and not the 680, 2240 or 9451 tokens of a published scale list.
    """
    return _infer_transformer_shapes(state) | {"scales": _infer_scales(state)}


def _infer_scales(state: State) -> tuple[int, ...]:
    levels, length = state.get("lvl_1L"), state["pos_1LC"].shape[1]
    if levels is not None and not levels.is_meta:
        return tuple(math.isqrt(count) for count in torch.bincount(levels.flatten()).tolist())
    if length not in SCALES:
        raise InputError(
            f"a VAR of {length} tokens has no known scale list: pass config={{'patch_nums': [...]}}"
        )
    return SCALES[length]


def _infer_transformer_shapes(state: State) -> dict[str, Any]:
    width = state["pos_1LC"].shape[2]
    scale_mul = state.get("blocks.0.attn.scale_mul_1H11")
    return {
        "hidden_size": width,
        "depth": 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        "num_heads": max(1, width // 64) if scale_mul is None else scale_mul.shape[1],
        "num_classes": state["class_emb.weight"].shape[0] - 1,
        "modulation": "shared" if "blocks.0.ada_gss" in state else "per_block",
        "qk_norm": scale_mul is not None,
        "mlp_ratio": state["blocks.0.ffn.fc1.weight"].shape[0] / width,
        "codebook_size": state["head.weight"].shape[0],
        "latent_channels": state["word_embed.weight"].shape[1],
    }


TRANSFORMER_NAMES = {"embed_dim": "hidden_size", "attn_l2_norm": "qk_norm", "patch_nums": "scales"}


def transformer_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config names → ours."""
    out = {TRANSFORMER_NAMES.get(key, key): value for key, value in official.items()}
    if "shared_aln" in out:
        out["modulation"] = "shared" if out.pop("shared_aln") else "per_block"
    return out


def transformer_from_official(state: State, config: dict[str, Any] | None = None) -> VARTransformer:
    """Build a `VARTransformer` from an official state dict; config keys as in the official code."""
    given = transformer_config(config or {})
    inferred = _infer_transformer_shapes(state) if "scales" in given else infer_transformer_config(state)
    return build(VARTransformer, inferred | given, convert_transformer(state), "the official VAR transformer")


def guidance_from_cfg(cfg: float) -> dict[str, Any]:
    """Official `cfg` → our guidance: s = 1 + cfg on a linear ramp; cfg = 0 is off."""
    if not math.isfinite(cfg):
        raise InputError(f"cfg={cfg} must be a finite number")
    return {"guidance_scale": 1.0 + cfg, "guidance_schedule": "linear"}


def sampling_from_official(
    cfg: float, top_k: int = 0, top_p: float = 0.0, more_smooth: bool = False
) -> dict[str, Any]:
    """Official sampling arguments (0 = off) → `TokenSampling` keywords."""
    return guidance_from_cfg(cfg) | {"top_k": top_k or None, "top_p": top_p or None, "smooth": more_smooth}
