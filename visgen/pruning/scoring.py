"""How much attention tokens get, from queries and keys alone: single rows, or chunks of rows."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 256  # query rows at once: 256 × 2,880 × 16 heads are 47 MB of float32


def cls_products(queries_TLC: Tensor, keys_TLC: Tensor, num_heads: int) -> Tensor:
    """(T, heads, L) float32: logits of each tile's first query against all keys, times head_dim^-0.5."""
    tiles, _, width = keys_TLC.shape
    split = (tiles, -1, num_heads, width // num_heads)
    q_THD = queries_TLC[:, :1].reshape(split).squeeze(1).float()
    return torch.einsum("thd,tlhd->thl", q_THD, keys_TLC.reshape(split).float()) * split[-1] ** -0.5


def attention_received(q_NHD: Tensor, k_NHD: Tensor) -> Tensor:
    """(N,) float32: attention that each entry receives, mean over queries and heads; sums to 1.

    Rows are taken a few at a time, so that there is never an N × N map.
    """
    k_HDN = k_NHD.float().permute(1, 2, 0)
    received_N = k_HDN.new_zeros(k_HDN.shape[-1])
    for q_HRD in q_NHD.float().transpose(0, 1).split(ROWS, dim=1):
        received_N += (q_HRD @ k_HDN * q_HRD.shape[-1] ** -0.5).softmax(dim=-1).sum(dim=(0, 1))
    return received_N / (q_NHD.shape[0] * q_NHD.shape[1])


def top_per_group(scores_N: Tensor, groups_N: Tensor, counts: list[int]) -> Tensor:
    """Indices of the `counts[g]` highest scores of each group g, group after group, best first; among equals
    the earlier one first."""
    best = []
    for group, count in enumerate(counts):
        members = (groups_N == group).nonzero().squeeze(1)
        ranked = scores_N[members].argsort(descending=True, stable=True)
        best.append(members[ranked[:count]])
    return torch.cat(best)
