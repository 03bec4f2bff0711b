"""Official RAR generators (`yucornetto/RAR`): key mapping and config inference, pure functions."""

from __future__ import annotations

import math
from typing import Any

from visgen.checkpoints.common import State, build, count, renamed
from visgen.checkpoints.maskgit import guidance_from_official
from visgen.checkpoints.titok_config import known, section
from visgen.errors import InputError
from visgen.generators.rar import PREFIX, RARGenerator

SPARE = 1024  # rows that the official tables of places have beyond those of the tokens
IGNORED = ("attn_mask",)  # lower triangle
KEYS = (
    ("adaln_before_head.adaLN_modulation.1.", "head.modulation."),
    ("lm_head.", "head.lm_head."),
)


def convert_generator(state: State) -> State:
    """Official keys → `RARGenerator` keys; of the tables, the rows that are used."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    rows = PREFIX + num_tokens(state)
    out = {}
    for key, tensor in state.items():
        if key == "pos_embed":
            out["place"] = tensor[0, :rows]
        elif key == "target_aware_pos_embed":
            out["next_place"] = tensor[0, PREFIX:rows]
        elif key == "timesteps_embeddings":
            out["step"] = tensor[0, :rows]
        elif key not in IGNORED:
            out[_key(key)] = tensor
    return out


def _key(key: str) -> str:
    for official, ours in KEYS:
        if key.startswith(official):
            return ours + key.removeprefix(official)
    return key.replace(".adaLN_modulation.1.", ".modulation.").replace(".mlp.", ".")


def num_tokens(state: State) -> int:
    """Tokens of an image, told from the table of places.

    Raises:
        InputError: it has no rows for any.
    """
    count_ = state["pos_embed"].shape[1] - SPARE
    if count_ < 1:
        raise InputError(
            f"state_dict: pos_embed has {count_ + SPARE} rows, {SPARE} more than tokens are needed"
        )
    return count_


def infer_generator_config(state: State) -> dict[str, Any]:
    """Config of a generator (our names) from an official state dict."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    codes, width = state["lm_head.weight"].shape
    return {
        "grid": grid_of(num_tokens(state)),
        "codebook_size": codes,
        "num_classes": state["embeddings.weight"].shape[0] - codes - 2,
        "hidden_size": width,
        "depth": count(state, "blocks."),
        "num_heads": width // state["blocks.0.attn.q_norm.weight"].shape[0],
        "mlp_size": state["blocks.0.mlp.fc1.weight"].shape[0],
    }


def grid_of(length: Any) -> tuple[int, ...]:
    """(side, side) of a square number of tokens, (n,) of another.

    Raises:
        InputError: no number of tokens.
    """
    if not isinstance(length, int) or length < 1:
        raise InputError(f"image_seq_len={length!r} must be a number of tokens, such as 256")
    side = math.isqrt(length)
    return (side, side) if side * side == length else (length,)


NAMES = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_size",
    "dropout": "dropout",
    "image_seq_len": "grid",
    "condition_num_classes": "num_classes",
}
# Of the trainer, or of a call; attention is not dropped here
OTHERS = (
    "attn_drop",
    "class_label_dropout",
    "use_checkpoint",
    "randomize_temperature",
    "guidance_scale",
    "guidance_decay",
    "guidance_scale_pow",
    "scale_pow",
    "num_steps",
    "model_type",
)


def generator_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config (nested) → ours."""
    own = known(section(official, "model", "generator"), (*NAMES, *OTHERS), "model.generator")
    ours = renamed({key: value for key, value in own.items() if key not in OTHERS}, NAMES)
    return ours | ({"grid": grid_of(ours["grid"])} if "grid" in ours else {})


def generator_from_official(state: State, config: dict[str, Any] | None = None) -> RARGenerator:
    """Build a `RARGenerator` from an official state dict; config as in the official code, inferred when
    omitted."""
    ours = infer_generator_config(state) | generator_config(config or {})
    return build(RARGenerator, ours, convert_generator(state), "the official RAR generator")


def sampling_from_official(
    guidance_scale: float, guidance_scale_pow: float, randomize_temperature: float = 1.0
) -> dict[str, Any]:
    """Official sampling arguments → `TokenSampling` keywords; a scale of 0 is off there."""
    temperature = {"temperature": randomize_temperature}
    if not guidance_scale:
        return temperature
    return guidance_from_official(guidance_scale, "power-cosine", guidance_scale_pow) | temperature
