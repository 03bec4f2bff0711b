"""LLaVA-1.5's architecture with random weights, as wide as it is and as deep as a machine can bear."""

from __future__ import annotations

from typing import Any

import torch

from visgen.errors import InputError
from visgen.registry import nearest

# Size → decoder width, feed-forward width, decoder layers, heads; tower width, feed-forward, layers, heads,
# image side, patch side.
SIZES = {
    "llava-1.5-7b": (4096, 11008, 32, 32, 1024, 4096, 24, 16, 336, 14),
    "llava-1.5-13b": (5120, 13824, 40, 40, 1024, 4096, 24, 16, 336, 14),
    "tiny": (64, 96, 4, 4, 32, 48, 3, 2, 36, 4),
}


def random_llava(size: str, depth: int | None, device: torch.device, dtype: torch.dtype) -> Any:
    """A `LlavaForConditionalGeneration` of a size, random weights from seed 0.

    Args:
        size: a key of `SIZES`.
        depth: decoder and tower layers at most; None = all.
        device, dtype: of the weights.

    Raises:
        InputError: unknown size, or fewer than 2 layers.
    """
    if size not in SIZES:
        raise InputError(f"unknown size {size!r}: {nearest(size, list(SIZES))}")
    if depth is not None and depth < 2:
        raise InputError(
            f"depth={depth} must be 2 or more: the tower's last but one layer is what LLaVA reads"
        )
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return LlavaForConditionalGeneration(LlavaConfig(**_configuration(size, depth))).to(dtype).eval()


def _configuration(size: str, depth: int | None) -> dict[str, Any]:
    d, m, layers, heads, tower_d, tower_m, tower_layers, tower_heads, side, patch = SIZES[size]
    text = {
        "model_type": "llama",
        "hidden_size": d,
        "intermediate_size": m,
        "num_hidden_layers": min(layers, depth or layers),
        "num_attention_heads": heads,
        "vocab_size": 1000,  # a prefill's last token meets the head once: its size tells nothing
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": tower_d,
        "intermediate_size": tower_m,
        "num_hidden_layers": min(tower_layers, depth or tower_layers),
        "num_attention_heads": tower_heads,
        "image_size": side,
        "patch_size": patch,
    }
    return {"text_config": text, "vision_config": vision, "image_token_index": 999}
