"""What the conversions of official checkpoints have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.building import assemble

State = dict[str, Tensor]


def build(cls: Any, config: Mapping[str, Any], state: State, source: str) -> Any:
    """A model in evaluation mode with converted weights as float32; nothing missing, nothing left over."""
    floats = {key: t.float() if t.is_floating_point() else t for key, t in state.items()}
    return assemble(cls, config, floats, source).eval()


def fuse_qkv(state: State) -> State:
    """Join the separate convolutions `q`, `k` and `v` of attention blocks into `qkv`, in this order."""
    out = {}
    for key, tensor in state.items():
        block, _, name = key.rpartition(".")
        stem, _, part = block.rpartition(".")
        if part == "q":
            out[f"{stem}.qkv.{name}"] = joined(state, [f"{stem}.{one}.{name}" for one in "qkv"])
        elif part not in ("k", "v"):
            out[key] = tensor
    return out


def joined(state: Mapping[str, Tensor], keys: list[str]) -> Tensor:
    """Tensors of one shape and type, one after another along their first dimension.

    Raises:
        InputError: they differ, so that they are not what their names say.
    """
    parts = [state[key] for key in keys]
    if len({(part.shape, part.dtype) for part in parts}) > 1:
        told = ", ".join(
            f"{key} {part.dtype} {tuple(part.shape)}" for key, part in zip(keys, parts, strict=True)
        )
        raise InputError(f"state_dict: {told} must have one shape and type")
    return torch.cat(parts)


def count(state: Mapping[str, Any], prefix: str) -> int:
    """How many numbered modules `prefix0.`, `prefix1.`, … there are, told from the largest number.

    Raises:
        ValueError: none at all, or what is no number.
    """
    return 1 + max(int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix))


def renamed(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Configuration keys by our names; unknown ones pass through, and are refused by the constructor."""
    return {names.get(key, key): value for key, value in config.items()}


LLAMA_MODULES = {
    "attention.wqkv": "attn.qkv",
    "attention.wo": "attn.proj",
    "attention_norm": "norm1",
    "ffn_norm": "norm2",
    "feed_forward.w2": "ffn.down",
}
# Name → width, depth, heads of LlamaGen (arXiv 2406.06525, table 1) and ELM (arXiv 2410.16257)
LLAMA_SIZES = {
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "xl": (1280, 36, 20),
    "xxl": (1536, 48, 24),
    "2b": (1792, 48, 28),
    "3b": (3200, 24, 32),
    "xxxl": (2560, 48, 40),
    "1b": (2048, 22, 32),
    "7b": (4096, 32, 32),
}
HEADS_OF = {width: heads for width, _, heads in LLAMA_SIZES.values()}


def llama_blocks(state: Mapping[str, Tensor]) -> State:
    """The `layers.*` of LlamaGen and ELM as `blocks.*` of `LlamaBlock`; w1 and w3 become one matrix."""
    out = {}
    for key, tensor in state.items():
        if not key.startswith("layers."):
            continue
        layer, module = key.removeprefix("layers.").removesuffix(".weight").split(".", 1)
        if module == "feed_forward.w1":
            out[f"blocks.{layer}.ffn.gate_up.weight"] = joined(state, [key, key.replace("w1", "w3")])
        elif module != "feed_forward.w3":
            out[f"blocks.{layer}.{LLAMA_MODULES.get(module, module)}.weight"] = tensor
    return out


def infer_llama_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes tell of a stack of Llama blocks; heads as in the published models."""
    width = state["norm.weight"].shape[0]
    return {
        "hidden_size": width,
        "depth": count(state, "layers."),
        "num_heads": HEADS_OF.get(width, max(1, width // 64)),
        "mlp_size": state["layers.0.feed_forward.w1.weight"].shape[0],
    }


def square_grid(block_size: Any) -> tuple[int, int]:
    """(side, side) of a number of tokens.

    Raises:
        InputError: no square number.
    """
    side = math.isqrt(block_size) if isinstance(block_size, int) and block_size > 0 else 0
    if not side or side * side != block_size:
        raise InputError(f"block_size={block_size!r} must be a square number of tokens, such as 256")
    return side, side


def without(config: dict[str, Any], neutral: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration less the keys of `neutral`, which must have the values that stand there.

    Raises:
        InputError: another value.
    """
    for key, value in neutral.items():
        if config.get(key, value) != value:
            raise InputError(f"{key}={config[key]!r} is not supported; it must be {value!r}")
    return {key: value for key, value in config.items() if key not in neutral}
