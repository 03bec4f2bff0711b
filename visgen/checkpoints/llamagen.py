"""Official LlamaGen checkpoints (`FoundationVision/LlamaGen`, `peizesun/llamagen_t2i`): key mapping and
config inference, pure functions."""

from __future__ import annotations

from typing import Any

from visgen.checkpoints.common import (
    State,
    build,
    count,
    fuse_qkv,
    infer_llama_config,
    llama_blocks,
    renamed,
    square_grid,
    without,
)
from visgen.errors import InputError
from visgen.generators.raster import RasterTransformer
from visgen.tokenizers.vq import VQTokenizer

TOKENIZER_IGNORED = ("quantize.codebook_used",)  # ring buffer of ids, for a training statistic
MID = {"0": "block_1", "1": "attn_1", "2": "block_2"}


def convert_tokenizer(state: State) -> State:
    """Official tokenizer keys → `VQTokenizer` keys."""
    state = {key.removeprefix("module."): t for key, t in state.items()}
    levels = count(state, "decoder.conv_blocks.")
    kept = {_tokenizer_key(key, levels): t for key, t in state.items() if key not in TOKENIZER_IGNORED}
    return fuse_qkv(kept)


def _tokenizer_key(key: str, levels: int) -> str:
    if key.startswith("quantize."):
        return key.replace("quantize.", "vq.", 1)
    parts = key.split(".")
    if len(parts) > 2 and parts[1] == "mid":
        parts[2] = MID.get(parts[2], parts[2])
    if len(parts) > 3 and parts[1] == "conv_blocks":
        up = parts[0] == "decoder"  # whose blocks are numbered as they run, from the coarsest
        parts[1:3] = ["up", str(levels - 1 - int(parts[2]))] if up else ["down", parts[2]]
        parts[3] = "block" if parts[3] == "res" else parts[3]
    return ".".join(parts)


def infer_tokenizer_config(state: State) -> dict[str, Any]:
    """Config of a tokenizer (our names) from the shapes of an official state dict; 256 pixels."""
    ch = state["encoder.conv_in.weight"].shape[0]
    encoder = _widths(state, "encoder")
    decoder = _widths(state, "decoder")[::-1]
    own = {"ch": ch, "ch_mult": decoder, "num_res_blocks": _blocks(state, "decoder") - 1, "patch_size": 1}
    shared = {"ch": ch, "ch_mult": encoder, "num_res_blocks": _blocks(state, "encoder"), "patch_size": 1}
    return {
        "codebook_size": state["quantize.embedding.weight"].shape[0],
        "code_dim": state["quantize.embedding.weight"].shape[1],
        "latent_channels": state["encoder.conv_out.weight"].shape[0],
        "in_channels": state["encoder.conv_in.weight"].shape[1],
        **shared,
        "decoder_sizes": None if own == shared else own,
    }


def _widths(state: State, side: str) -> tuple[int, ...]:
    """Multiples of the base width, in the order of the blocks."""
    ch = state["encoder.conv_in.weight"].shape[0]
    blocks = range(count(state, f"{side}.conv_blocks."))
    return tuple(state[f"{side}.conv_blocks.{i}.res.0.conv1.weight"].shape[0] // ch for i in blocks)


def _blocks(state: State, side: str) -> int:
    return count(state, f"{side}.conv_blocks.0.res.")


TOKENIZER_NAMES = {
    "codebook_embed_dim": "code_dim",
    "z_channels": "latent_channels",
    "codebook_l2_norm": "normalize_codes",
    "commit_loss_beta": "beta",
    "entropy_loss_ratio": "entropy_ratio",
}


def tokenizer_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config names → ours; what the shapes tell is left to them."""
    told = ("encoder_ch_mult", "decoder_ch_mult", "num_res_blocks", "ch")
    official = {key: value for key, value in without(official, {"dropout_p": 0.0}).items() if key not in told}
    return renamed(official, TOKENIZER_NAMES)


def tokenizer_from_official(state: State, config: dict[str, Any] | None = None) -> VQTokenizer:
    """Build a `VQTokenizer` from an official state dict; config keys as in the official code, inferred when
    omitted."""
    ours = infer_tokenizer_config(state) | tokenizer_config(config or {})
    return build(VQTokenizer, ours, convert_tokenizer(state), "the official LlamaGen tokenizer")


GENERATOR_KEYS = {
    "cls_embedding.embedding_table.weight": "prefix.embed.weight",
    "cls_embedding.uncond_embedding": "prefix.text_null",
    "cls_embedding.cap_proj.fc1.weight": "prefix.fc1.weight",
    "cls_embedding.cap_proj.fc2.weight": "prefix.fc2.weight",
    "tok_embeddings.weight": "tokens.embedding.weight",
    "norm.weight": "tokens.norm.weight",
    "output.weight": "tokens.head.weight",
}
GENERATOR_IGNORED = ("freqs_cis", "causal_mask")  # tables that follow from the config
CACHES = (".kv_cache.k_cache", ".kv_cache.v_cache")  # left behind by the official `generate`


def convert_generator(state: State) -> State:
    """Official GPT keys → `RasterTransformer` keys; tables that follow from the config are dropped."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items() if not key.endswith(CACHES)}
    others = {key: t for key, t in state.items() if not key.startswith("layers.")}
    kept = {GENERATOR_KEYS.get(key, key): t for key, t in others.items() if key not in GENERATOR_IGNORED}
    return kept | llama_blocks(state)


def infer_generator_config(state: State) -> dict[str, Any]:
    """Config of a generator (our names) from the shapes of an official state dict; 16 × 16 tokens."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    ours = infer_llama_config(state) | {"grid": (16, 16), "prefix_rotation": "zero"}
    ours["codebook_size"] = state["tok_embeddings.weight"].shape[0]
    if "cls_embedding.embedding_table.weight" in state:
        classes = state["cls_embedding.embedding_table.weight"].shape[0] - 1
        return ours | {"condition": "class", "num_classes": classes}
    length, width = state["cls_embedding.uncond_embedding"].shape
    if not length:
        raise InputError("state_dict: cls_embedding.uncond_embedding holds no positions")
    return ours | {"condition": "text", "text_length": length, "text_dim": width}


GENERATOR_NAMES = {
    "dim": "hidden_size",
    "n_layer": "depth",
    "n_head": "num_heads",
    "n_kv_head": "num_kv_heads",
    "vocab_size": "codebook_size",
    "token_dropout_p": "token_dropout",
    "resid_dropout_p": "dropout",
}
# Told by the shapes, or of the trainer
TOLD = ("multiple_of", "ffn_dim_multiplier", "caption_dim", "num_classes", "model_type", "class_dropout_prob")
NEUTRAL = {"attn_dropout_p": 0.0, "drop_path_rate": 0.0}
SIZES = ("max_batch_size", "max_seq_len", "initializer_range")  # of the caches, and of fresh weights


def generator_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config names → ours; what the shapes tell is left to them.

    Raises:
        InputError: dropouts that differ, attention dropout or dropped paths.
    """
    official = without(official, NEUTRAL)
    if official.pop("ffn_dropout_p", official.get("resid_dropout_p")) != official.get("resid_dropout_p"):
        raise InputError("ffn_dropout_p and resid_dropout_p differ; they must be the same")
    ours = renamed({k: v for k, v in official.items() if k not in (*TOLD, *SIZES)}, GENERATOR_NAMES)
    if "block_size" in ours:
        ours["grid"] = square_grid(ours.pop("block_size"))
    length = ours.pop("cls_token_num", 1)
    return ours | ({"text_length": length} if length > 1 else {})


def generator_from_official(state: State, config: dict[str, Any] | None = None) -> RasterTransformer:
    """Build a `RasterTransformer` from an official state dict; config keys as in the official code, inferred
    when omitted, all but `block_size`: shapes do not tell it (256 where it is left out)."""
    ours = infer_generator_config(state) | generator_config(config or {})
    converted = convert_generator(state)
    if "prefix.text_null" in converted:
        converted["prefix.text_null"] = converted["prefix.text_null"][: ours["text_length"]]
    return build(RasterTransformer, ours, converted, "the official LlamaGen generator")


def sampling_from_official(
    cfg_scale: float, top_k: int = 0, top_p: float = 1.0, temperature: float = 1.0, cfg_interval: int = -1
) -> dict[str, Any]:
    """Official sampling arguments → `TokenSampling` keywords.

    Off are cfg_scale up to 1, top_k 0, top_p 1 and cfg_interval -1; otherwise the first token and the
    cfg_interval + 1 after it are guided.
    """
    return {
        "guidance_scale": max(1.0, float(cfg_scale)),
        "guidance_steps": None if cfg_interval < 0 else cfg_interval + 2,
        "top_k": top_k or None,
        "top_p": None if top_p >= 1 else top_p,
        "temperature": max(temperature, 1e-5),
    }
