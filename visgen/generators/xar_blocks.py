"""xAR's transformer block (arXiv 2502.20388): rotary attention and a gated MLP behind norms that condition
and noise level shift and scale."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import Tensor, nn

from visgen.nn.adaln import Modulation
from visgen.nn.attention import attend
from visgen.nn.cache import KVCache
from visgen.nn.precision import KeepFloat32
from visgen.nn.rope import Rotation, rotate

NORM_EPS = 1e-6
TIME_CHANNELS = 256
XARModulation = Literal["per_block", "shared"]


def norm(x: Tensor) -> Tensor:
    """x / rms(x) in float32, cast back; no weights."""
    return F.rms_norm(x.float(), x.shape[-1:], eps=NORM_EPS).to(x.dtype)


def time_steps(times: Tensor) -> Tensor:
    """The integer the network reads of t: 1000 t in float32, cut off."""
    return (times.float() * 1000).long()


class TimeEmbedding(KeepFloat32):
    """t (…) in [0, 1] → (…, C): cosines and sines of 1000 t, then an MLP, which stays in float32."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = TimestepEmbedding(TIME_CHANNELS, hidden_size)

    def forward(self, times: Tensor) -> Tensor:
        steps = time_steps(times).flatten()
        waves = get_timestep_embedding(steps, TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        return self.mlp(waves).unflatten(0, times.shape)


class XARAttention(nn.Module):
    """Self-attention; queries and keys are turned by where they stand."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        x_BLC: Tensor,
        rotation: Rotation,
        *,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        b, length, width = x_BLC.shape
        qkv = self.qkv(x_BLC).view(b, length, 3 * self.num_heads, -1).transpose(1, 2)
        qk, v = qkv.split([2 * self.num_heads, self.num_heads], dim=1)
        q, k = rotate(qk, rotation).chunk(2, dim=1)  # (B, H, L, D) each
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        out = attend(q, k.to(q.dtype), v.to(q.dtype), mask=mask, dropout=self.dropout * self.training)
        return self.proj(out.transpose(1, 2).reshape(b, length, width))


class GatedMLP(nn.Module):
    """down(GELU(gate x) · up x), gate and up in one matrix. The official class is called SwiGLU, but has an
    exact GELU."""

    def __init__(self, hidden_size: int, mlp_size: int, dropout: float) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * mlp_size)
        self.down = nn.Linear(mlp_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.dropout(F.gelu(gate) * up))


class XARBlock(nn.Module):
    """x + γ₁ attention(norm(x)(1 + s₁) + b₁), then the same with the MLP.

    Args:
        modulation: "per_block" = a linear layer of condition and time in every block; "shared" = one for all
            blocks plus a learned offset per block, a third of the parameters less.
        dropout: on attention weights, inside the MLP, and on both branches; in training only.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, mlp_size: int, modulation: XARModulation, dropout: float
    ) -> None:
        super().__init__()
        self.attn = XARAttention(hidden_size, num_heads, dropout)
        self.ffn = GatedMLP(hidden_size, mlp_size, dropout)
        self.dropout = nn.Dropout(dropout)
        if modulation == "per_block":
            self.modulation = nn.Linear(hidden_size, 6 * hidden_size)
        else:
            self.modulation_offset = nn.Parameter(torch.zeros(1, 1, 6, hidden_size))

    def modulations(self, condition_BEC: Tensor, shared_BE6C: Tensor | None) -> Tensor:
        """The six vectors of this block, (B, E, 6, C); `shared_BE6C` is the model's shared part."""
        if shared_BE6C is not None:
            return shared_BE6C + self.modulation_offset
        return self.modulation(F.silu(condition_BEC)).unflatten(-1, (6, -1))

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        rotation: Rotation,
        *,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        h = self.attn(norm(x) * (1 + scale1) + shift1, rotation, mask=mask, cache=cache, layer=layer)
        x = x + gamma1 * self.dropout(h)
        return x + gamma2 * self.dropout(self.ffn(norm(x) * (1 + scale2) + shift2))


def spread(vectors_BE6C: Tensor, lengths: Sequence[int]) -> Modulation:
    """The six vectors of every position, (B, L, C) each, from those of entities of some `lengths`; (B, 1, C)
    of a single one."""
    if len(lengths) == 1:
        return vectors_BE6C.unbind(2)
    parts, first = [], 0
    for length, run in groupby(lengths):
        count = len(list(run))
        part = vectors_BE6C[:, first : first + count, None].expand(-1, -1, length, -1, -1)
        parts.append(part.flatten(1, 2))
        first += count
    return torch.cat(parts, dim=1).unbind(2)
