"""SEED's causal Q-Former: transformers' BLIP-2 Q-Former, whose queries see only those before them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Blip2QFormerConfig,
    Blip2QFormerModel,
)
from transformers.masking_utils import sdpa_mask

from visgen.errors import InputError
from visgen.nn.attention import attend

ATTENTION = "visgen"  # the name under which transformers' layers find `attend`


def build_qformer(
    hidden_size: int,
    depth: int,
    num_heads: int,
    mlp_size: int,
    cross_attention_every: int,
    encoder_size: int,
    *,
    text: bool = False,
    dropout: float = 0.0,
) -> Blip2QFormerModel:
    """A Q-Former with random weights, in SEED's arrangement (BERT's post-norm blocks, eps 1e-12).

    Args:
        hidden_size, depth, num_heads, mlp_size: sizes of the transformer.
        cross_attention_every: layers 0, n, 2n, … look at the encoder's features.
        encoder_size: channels of those.
        text: with the feed-forward layers of text tokens.
        dropout: of hidden states in training (BERT: 0.1, and as much of attention).

    Raises:
        InputError: sizes below 1, or heads that do not divide the hidden size.
    """
    sizes = (hidden_size, depth, num_heads, mlp_size, cross_attention_every, encoder_size)
    if min(sizes) < 1 or hidden_size % num_heads:
        raise InputError(
            f"num_heads={num_heads} must divide hidden_size={hidden_size}, and every size be 1 or more"
        )
    config = Blip2QFormerConfig(
        hidden_size=hidden_size,
        num_hidden_layers=depth,
        num_attention_heads=num_heads,
        intermediate_size=mlp_size,
        cross_attention_frequency=cross_attention_every,
        encoder_hidden_size=encoder_size,
        use_qformer_text_input=text,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-12,
        initializer_range=hidden_size**-0.5,  # BERT's 0.02 is for 768 channels: narrow ones would not hear
        attn_implementation=ATTENTION,
    )
    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    return Blip2QFormerModel(config)


def causal_mask(queries: Tensor) -> Tensor:
    """Bool (B, 1, Q, Q) for queries (B, Q, C): query i sees 0 … i."""
    b, n, _ = queries.shape
    return torch.ones(n, n, dtype=torch.bool, device=queries.device).tril().expand(b, 1, n, n)


def text_mask(present_BT: Tensor) -> Tensor:
    """Bool (B, 1, T, T): every word sees all words that are there."""
    b, t = present_BT.shape
    return present_BT.bool()[:, None, None].expand(b, 1, t, t)


def joint_mask(queries: Tensor, present_BT: Tensor) -> Tensor:
    """Bool (B, 1, Q + T, Q + T), queries before text: causal among queries, full elsewhere, less padding."""
    (b, n, _), t = queries.shape, present_BT.shape[1]
    mask = torch.ones(b, 1, n + t, n + t, dtype=torch.bool, device=queries.device)
    mask[:, :, :n, :n] = causal_mask(queries)
    mask[..., n:] &= present_BT.bool()[:, None, None]
    return mask


def run_qformer(
    qformer: Blip2QFormerModel, queries: Tensor, features: Tensor | None = None, *, causal: bool = True
) -> Tensor:
    """Last hidden states (B, Q, C) of queries that look at features (B, N, E).

    Args:
        qformer: see `build_qformer`.
        queries: (B, Q, C).
        features: what the cross-attention reads.
        causal: whether query i sees 0 … i only; the reverse Q-Former's do not need it.
    """
    mask = causal_mask(queries) if causal else None
    out = qformer(query_embeds=queries, attention_mask=mask, encoder_hidden_states=features)
    return out.last_hidden_state


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`attend` as transformers' layers call it: (B, H, L, D) → (B, L, H, D)."""
    return attend(query, key, value, mask=attention_mask, scale=scaling).transpose(1, 2), None
