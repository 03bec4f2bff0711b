"""Fewer features of a square grid by average pooling: TokenFLEX's way to fewer vision tokens (2504.03154)."""

from __future__ import annotations

from math import isqrt

import torch.nn.functional as F
from torch import Tensor

from visgen.errors import InputError


def square_side(count: int, name: str = "num_tokens") -> int:
    """The side of a square of `count` places; raises `InputError` where there is none."""
    side = isqrt(max(count, 0))
    if count < 1 or side * side != count:
        raise InputError(f"{name}={count} is no square; use 1, 4, 9, …, 64, …, 144, …")
    return side


def pool_grid(features_BND: Tensor, count: int) -> Tensor:
    """(B, N, D) features of a square grid, row by row, averaged to (B, count, D) of a smaller one.

    The grid's own count changes nothing.

    Raises:
        InputError: N or `count` is no square, or `count` is above N.
    """
    old, new = square_side(features_BND.shape[1], "features"), square_side(count)
    if new > old:
        raise InputError(f"num_tokens={count} is above the {old * old} that there are")
    if new == old:
        return features_BND
    maps = features_BND.transpose(1, 2).unflatten(2, (old, old))
    return F.adaptive_avg_pool2d(maps, new).flatten(2).transpose(1, 2)
