"""Official MaskGIT generators of TiTok (`fun-research/TiTok`): key mapping and config inference, pure
functions."""

from __future__ import annotations

from typing import Any

from visgen.checkpoints.common import State, build, count, renamed
from visgen.checkpoints.titok_config import known, section
from visgen.errors import InputError
from visgen.generators.maskgit import MaskGITGenerator

BERT_KEYS = (
    ("model.embeddings.LayerNorm.", "trunk.norm."),
    ("model.embeddings.", "trunk."),
    ("model.encoder.", "trunk.encoder."),
    ("model.lm_head.", "head."),
)
BERT_IGNORED = ("model.embeddings.position_ids", "model.embeddings.token_type_ids")  # 0 … L − 1, and zeros


def convert_generator(state: State) -> State:
    """Official keys of ImageBert or UViTBert → `MaskGITGenerator` keys."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    if not is_bert(state):
        return {_uvit_key(key): tensor for key, tensor in state.items()}
    return {_bert_key(key): tensor for key, tensor in state.items() if key not in BERT_IGNORED}


def is_bert(state: State) -> bool:
    """Whether it is ImageBert's."""
    return any(key.startswith("model.encoder.") for key in state)


def _bert_key(key: str) -> str:
    for official, ours in BERT_KEYS:
        if key.startswith(official):
            return ours + key.removeprefix(official)
    return key


def _uvit_key(key: str) -> str:
    if key.startswith("lm_head."):
        return key.replace("lm_head.", "head.", 1)
    return "trunk." + key.replace(".attn.", ".").replace(".mlp.", ".")


def infer_generator_config(state: State) -> dict[str, Any]:
    """Config of a generator (our names) from an official state dict; 16 heads, as the published ones."""
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    bert = is_bert(state)
    head = state["model.lm_head.weight" if bert else "lm_head.weight"]
    table = state["model.embeddings.word_embeddings.weight" if bert else "embeddings.weight"]
    if bert:
        length = state["model.embeddings.position_embeddings.weight"].shape[0]
        depth, mlp = count(state, "model.encoder.layer."), "model.encoder.layer.0.intermediate.dense.weight"
    else:
        length = state["pos_embed"].shape[1]
        blocks = [key for key in state if key.startswith("in_blocks.")]
        depth, mlp = 2 * count(state, "in_blocks.") if blocks else 1, "mid_block.mlp.fc1.weight"
    return {
        "num_tokens": length - 1,
        "codebook_size": head.shape[0],
        "backbone": "bert" if bert else "uvit",
        "hidden_size": head.shape[1],
        "depth": depth,
        "num_heads": 16,
        "mlp_size": state[mlp].shape[0],
        "num_classes": table.shape[0] - head.shape[0] - 2,
    }


NAMES = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_size",
    "dropout": "dropout",
    "attn_drop": "attention_dropout",
    "image_seq_len": "num_tokens",
    "condition_num_classes": "num_classes",
    "num_steps": "num_inference_steps",
    "randomize_temperature": "choice_temperature",
    "label_smoothing": "label_smoothing",
    "softmax_temperature_annealing": "annealing",
}
# Of the trainer, or of a call
OTHERS = ("model_type", "class_label_dropout", "guidance_scale", "guidance_decay", "guidance_scale_pow")


def generator_config(official: dict[str, Any]) -> dict[str, Any]:
    """Official config (nested) → ours; an odd number of U-ViT blocks counts the middle one."""
    own = known(section(official, "model", "generator"), (*NAMES, *OTHERS), "model.generator")
    return renamed({key: value for key, value in own.items() if key not in OTHERS}, NAMES)


def generator_from_official(state: State, config: dict[str, Any] | None = None) -> MaskGITGenerator:
    """Build a `MaskGITGenerator` from an official state dict; config as in the official code, inferred when
    omitted (heads: 16)."""
    ours = infer_generator_config(state) | generator_config(config or {})
    return build(MaskGITGenerator, ours, convert_generator(state), "the official MaskGIT generator")


def sampling_from_official(
    guidance_scale: float,
    guidance_decay: str = "constant",
    guidance_scale_pow: float = 3.0,
    randomize_temperature: float = 4.5,
    softmax_temperature_annealing: bool = False,
    num_sample_steps: int = 8,
) -> dict[str, Any]:
    """Official sampling arguments → `MaskGITSampling` keywords.

    "constant" and "linear" add g (c − u) to the conditional logits, so that s = 1 + g; "power-cosine" means s
    itself, from 1 on.

    Raises:
        InputError: another schedule.
    """
    return {
        **guidance_from_official(guidance_scale, guidance_decay, guidance_scale_pow),
        "choice_temperature": randomize_temperature,
        "annealing": softmax_temperature_annealing,
        "num_inference_steps": num_sample_steps,
    }


def guidance_from_official(scale: float, decay: str, power: float) -> dict[str, Any]:
    """The same for guidance alone, as `TokenSampling` keywords."""
    if decay == "power-cosine":
        return {"guidance_scale": float(scale), "guidance_schedule": f"power_cosine:{float(power)}"}
    schedules = {"constant": "constant", "linear": "maskgit_linear"}
    if decay not in schedules:
        raise InputError(f"guidance_decay={decay!r} must be constant, linear or power-cosine")
    return {"guidance_scale": 1.0 + scale, "guidance_schedule": schedules[decay]}
