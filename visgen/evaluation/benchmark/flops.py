"""Floating point operations, by formula or counted; a multiplication and an addition are two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from visgen.nn.attention import attention_backend
from visgen.nn.packed import packed_weights


def block_flops(config: Any, rows: int, positions: int, keys: int) -> int:
    """FLOPs of all transformer blocks of a `VARTransformer` for one pass.

    Counts the linear layers and the two products of attention, not norms, softmax or modulation vectors.

    Args:
        config: of the model.
        rows: images, twice as many with guidance.
        positions: new positions of a row.
        keys: positions that each of them attends to.
    """
    c, mlp = config.hidden_size, round(config.hidden_size * config.mlp_ratio)
    linear = 2 * positions * (4 * c * c + 2 * c * mlp)  # qkv and projection; feed-forward
    attention = 4 * positions * keys * c
    return config.depth * rows * (linear + attention)


def conv_flops(conv: nn.Conv2d, output: Tensor) -> int:
    """FLOPs of a convolution that gave `output` (B, C, H, W), bias left out."""
    return 2 * output.numel() * conv.weight[0].numel()


def counted_flops(call: Callable[[], Any]) -> int:
    """FLOPs of a call as torch counts them: matmuls and convolutions, attention as two matmuls."""
    with packed_weights(False), attention_backend("explicit"), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
