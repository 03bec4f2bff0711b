"""Chameleon's image tokenizer (`vqgan.ckpt` of the official release; Anole and Lumina-mGPT use it unchanged).

A VQGAN in the layout of taming-transformers. The transformers library has its encoder only; some conversions
of Anole carry the decoder beside it, under `model.vqmodel.`.
"""

from __future__ import annotations

from typing import Any

from visgen.checkpoints.common import State, build, count, fuse_qkv
from visgen.tokenizers.vq import VQTokenizer

PREFIX = "model.vqmodel."
PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")


def convert_tokenizer(state: State) -> State:
    """Official keys → `VQTokenizer` keys; the losses of training are dropped."""
    own = {key.removeprefix(PREFIX): t for key, t in state.items()}
    kept = {k.replace("quantize.", "vq.", 1): t for k, t in own.items() if k.startswith(PARTS)}
    return fuse_qkv(kept)


def infer_tokenizer_config(converted: State) -> dict[str, Any]:
    """Config from the shapes of converted weights; 512 pixels."""
    ch, latent = converted["encoder.conv_in.weight"].shape[0], converted["encoder.conv_out.weight"].shape[0]
    levels = range(count(converted, "encoder.down."))
    widths = [converted[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in levels]
    codes = converted["vq.embedding.weight"].shape
    return {
        "image_size": 512,
        "codebook_size": codes[0],
        "code_dim": codes[1],
        "latent_channels": latent,
        "in_channels": converted["encoder.conv_in.weight"].shape[1],
        "ch": ch,
        "ch_mult": tuple(width // ch for width in widths),
        "num_res_blocks": count(converted, "encoder.down.0.block."),
        "attention": f"encoder.down.{levels[-1]}.attn.0.norm.weight" in converted,
        "normalize_codes": False,
    }


def tokenizer_from_official(state: State, config: dict[str, Any] | None = None) -> VQTokenizer:
    """Build a `VQTokenizer` from an official state dict.

    Args:
        state: keys of `vqgan.ckpt`, or those of a whole Anole, of which the image tokenizer is taken.
        config: constructor arguments of `VQTokenizer` that differ, such as `image_size`.
    """
    converted = convert_tokenizer(state)
    ours = infer_tokenizer_config(converted) | (config or {})
    return build(VQTokenizer, ours, converted, "the official Chameleon tokenizer")
