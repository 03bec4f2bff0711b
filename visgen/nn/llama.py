"""Llama-style transformer block (LlamaGen, arXiv 2406.06525): RMSNorm, rotary attention with grouped keys,
SwiGLU, no biases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.nn.attention import attend
from visgen.nn.rope import Rotation, rotate
from visgen.nn.slot_cache import SlotCache


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, times a learned weight."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype) * self.weight


class LlamaAttention(nn.Module):
    """Causal self-attention; queries and keys are turned by `rotation`.

    Args:
        num_kv_heads: heads of keys and values, each serving num_heads / num_kv_heads query heads.
        qk_norm: RMSNorm per head on queries and keys before they are turned.
    """

    def __init__(self, hidden_size: int, num_heads: int, num_kv_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_size = hidden_size // num_heads
        self.qkv = nn.Linear(hidden_size, (num_heads + 2 * num_kv_heads) * self.head_size, bias=False)
        self.proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_size) if qk_norm else None
        self.k_norm = RMSNorm(self.head_size) if qk_norm else None

    def forward(
        self,
        x_BLC: Tensor,
        rotation: Rotation,
        *,
        mask: Tensor | None = None,
        cache: SlotCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        b, length, c = x_BLC.shape
        heads = self.qkv(x_BLC).view(b, length, -1, self.head_size).transpose(1, 2)  # (B, H + 2 Hkv, L, D)
        sizes = [self.num_heads, self.num_kv_heads]
        qk, v = heads.split([sum(sizes), self.num_kv_heads], dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split(sizes, dim=1)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], dim=1)
        q, k = rotate(qk, rotation).split(sizes, dim=1)
        if cache is not None:
            k, v = cache.write(layer, k, v)
        out = attend(q, k, v, mask=mask)
        return self.proj(out.transpose(1, 2).reshape(b, length, c))


class SwiGLU(nn.Module):
    """down(SiLU(gate x) · up x), gate and up in one matrix: one pass over the input."""

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class LlamaBlock(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)); `dropout` on both branches, in training only."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        mlp_size: int,
        *,
        norm_eps: float = 1e-5,
        qk_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = RMSNorm(hidden_size, norm_eps)
        self.attn = LlamaAttention(hidden_size, num_heads, num_kv_heads, qk_norm)
        self.norm2 = RMSNorm(hidden_size, norm_eps)
        self.ffn = SwiGLU(hidden_size, mlp_size)

    def forward(
        self,
        x_BLC: Tensor,
        rotation: Rotation,
        *,
        mask: Tensor | None = None,
        cache: SlotCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        x = x_BLC + self._drop(self.attn(self.norm1(x_BLC), rotation, mask=mask, cache=cache, layer=layer))
        return x + self._drop(self.ffn(self.norm2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


def swiglu_size(hidden_size: int, multiple_of: int = 256, multiplier: float | None = None) -> int:
    """Hidden width of SwiGLU: 8/3 of `hidden_size`, times `multiplier`, rounded up to a multiple."""
    size = int(2 * 4 * hidden_size / 3)
    size = size if multiplier is None else int(multiplier * size)
    return multiple_of * -(-size // multiple_of)
