"""Official ELM transformers (`xuantonglll/ELM`), next-token and masked: key mapping and config inference,
pure functions."""

from __future__ import annotations

from typing import Any

from visgen.checkpoints.common import (
    State,
    build,
    count,
    infer_llama_config,
    llama_blocks,
    renamed,
    square_grid,
    without,
)
from visgen.errors import InputError
from visgen.generators.elm_masked import ELMMaskedTransformer
from visgen.generators.raster import RasterTransformer


def convert_generator(state: State) -> State:
    """Official keys of the next-token transformer → `RasterTransformer` keys."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return llama_blocks(state) | {
        _generator_key(key): tensor for key, tensor in state.items() if not key.startswith("layers.")
    }


def _generator_key(key: str) -> str:
    for old, new in (
        ("cls_embedding.embedding_table.", "prefix.embed."),
        ("tok_embedder.", "tokens.embedding."),
        ("proj.", "tokens.join."),
        ("norm.", "tokens.norm."),
        ("output.", "tokens.head."),
    ):
        if key.startswith(old):
            return key.replace(old, new, 1)
    return key


def infer_generator_config(state: State) -> dict[str, Any]:
    """Config of a next-token generator (our names) from an official state dict; 16 × 16 tokens."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    codes = 1 if "tok_embedder.weight" in state else count(state, "tok_embedder.")
    table = state["tok_embedder.weight" if codes == 1 else "tok_embedder.0.weight"]
    return infer_llama_config(state) | {
        "grid": (16, 16),
        "codebook_size": table.shape[0],
        "num_codes": codes,
        "condition": "class",
        "num_classes": state["cls_embedding.embedding_table.weight"].shape[0] - 1,
        "prefix_rotation": "zero",
    }


GENERATOR_NAMES = {
    "dim": "hidden_size",
    "n_layer": "depth",
    "n_head": "num_heads",
    "smoothing": "label_smoothing",
}
NEUTRAL = {"pos_type": "rope2d", "use_adaLN": False, "cos_attn": False, "drop_path_rate": 0.0}
TOLD_OF_GENERATOR = ("token_each", "code_dim", "multiple_of", "num_classes", "model_type", "gen_iter")


def generator_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config names → ours; what the shapes tell is left to them."""
    official = {k: v for k, v in without(official, NEUTRAL).items() if k not in TOLD_OF_GENERATOR}
    ours = renamed(official, GENERATOR_NAMES)
    if "block_size" in ours:
        ours["grid"] = square_grid(ours.pop("block_size"))
    return ours


def generator_from_official(state: State, config: dict[str, Any] | None = None) -> RasterTransformer:
    """Build a `RasterTransformer` from an official state dict; config keys as in the official code, inferred
    when omitted (`block_size`: 256)."""
    ours = infer_generator_config(state) | generator_config(config or {})
    return build(RasterTransformer, ours, convert_generator(state), "the official ELM generator")


MASKED_KEYS = {
    "cls_embedding.embedding_table.weight": "condition.embed.weight",
    "tok_embedder.weight": "embed.weight",
    "norm.weight": "norm.weight",
    "mlm_layer.fc.weight": "head.fc.weight",
    "mlm_layer.fc.bias": "head.fc.bias",
    "mlm_layer.ln.weight": "head.norm.weight",
    "mlm_layer.ln.bias": "head.norm.bias",
    "mlm_layer.bias": "head.bias",
}
MASKED_IGNORED = ("output.", "pos_embed.", "proj.")  # stored by the official code, never used


def convert_masked(state: State) -> State:
    """Official keys of the masked transformer → `ELMMaskedTransformer` keys."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    others = {key: t for key, t in state.items() if not key.startswith(("layers.", *MASKED_IGNORED))}
    out = {MASKED_KEYS.get(key, key): t for key, t in others.items()} | llama_blocks(state)
    if "head.bias" in out:
        out["head.bias"] = out["head.bias"].flatten()
    return out


def masked_from_official(state: State, config: dict[str, Any] | None = None) -> ELMMaskedTransformer:
    """Build an `ELMMaskedTransformer` from an official state dict; config keys as in the official code.

    Shapes do not tell `token_each` (1 where it is left out) nor `block_size` (256).
    """
    plain = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    config = dict(config or {})
    inferred = infer_llama_config(plain) | {
        "grid": (16, 16),
        "codebook_size": plain["tok_embedder.weight"].shape[0] - 1,
        "num_codes": config.get("token_each", 1),
        "num_classes": plain["cls_embedding.embedding_table.weight"].shape[0] - 1,
    }
    ours = inferred | generator_config(config)
    return build(ELMMaskedTransformer, ours, convert_masked(state), "the official ELM masked transformer")


SCHEDULES = {
    "constant": "constant",
    "linear": "elm_linear",
    "cos": "elm_cosine",
    "log": "elm_log",
    "square": "elm_square",
    "square_root": "elm_square_root",
}


def sampling_from_official(
    cfg_scale: float, cfg_schedule: str = "constant", top_k: int | None = None, temperature: float = 1.0
) -> dict[str, Any]:
    """Official sampling arguments → `TokenSampling` keywords.

    Raises:
        InputError: an unknown schedule.
    """
    if cfg_schedule not in SCHEDULES:
        raise InputError(f"cfg_schedule={cfg_schedule!r} must be one of {', '.join(SCHEDULES)}")
    return {
        "guidance_scale": cfg_scale,
        "guidance_schedule": SCHEDULES[cfg_schedule],
        "top_k": top_k,
        "temperature": temperature,
    }
