"""A few rows of a decoder layer's attention, recomputed beside a kernel that does not return its weights.

Only wanted queries are computed, against keys that are in the cache: T × L products instead of L × L.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn


def rotate(attention: nn.Module, x_HTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotary embedding the way the layer's own file does it."""
    apply = sys.modules[type(attention).__module__].apply_rotary_pos_emb  # type: ignore[attr-defined]
    return apply(x_HTD[None], x_HTD[None], cos_TD[None], sin_TD[None])[0][0]


def project_heads(attention: Any, name: str, x_TD: Tensor) -> Tensor:
    """(heads, T, head_dim) queries ("q") or keys ("k") before rotation."""
    split = getattr(attention, f"{name}_proj")(x_TD).view(len(x_TD), -1, attention.head_dim)
    norm = getattr(attention, f"{name}_norm", None)
    return (split if norm is None else norm(split)).transpose(0, 1)


def attention_rows(
    attention: Any,
    hidden_LD: Tensor,
    rotary: tuple[Tensor, Tensor],
    rows_T: Tensor,
    valid_L: Tensor,
    keys_HLD: Tensor | None = None,
) -> Tensor:
    """Attention probabilities of some queries of one sequence under a causal mask.

    Args:
        attention: the layer's attention module (`q_proj`, `k_proj`, `head_dim`, `scaling`).
        hidden_LD: its input.
        rotary: cos and sin (L, head_dim) of the sequence.
        rows_T: int64, the queries.
        valid_L: False where the sequence is padded.
        keys_HLD: rotated keys out of the cache; None = computed anew.

    Returns:
        (heads, T, L) float32; each row sums to 1.
    """
    cos, sin = rotary
    if keys_HLD is None:
        keys_HLD = rotate(attention, project_heads(attention, "k", hidden_LD), cos, sin)
    q_HTD = rotate(attention, project_heads(attention, "q", hidden_LD[rows_T]), cos[rows_T], sin[rows_T])
    q_GRTD = q_HTD.float().unflatten(0, (len(keys_HLD), -1))  # query heads of one key head stand together
    logits = (q_GRTD @ keys_HLD.float().transpose(1, 2)[:, None]).flatten(0, 1) * attention.scaling
    entries = torch.arange(len(valid_L), device=logits.device)
    seen_TL = (entries <= rows_T[:, None]) & valid_L
    return logits.masked_fill(~seen_TL, -torch.inf).softmax(dim=-1)
