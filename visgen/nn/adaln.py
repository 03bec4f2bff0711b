"""Transformer block with adaptive layer norm (DiT's adaLN in VAR's arrangement, arXiv 2404.02905).

Modulation vectors depend on the condition alone: `modulations` is called once per image, `forward` once per
step.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.nn.attention import attend
from visgen.nn.cache import KVCache
from visgen.nn.precision import KeepFloat32

ModulationKind = Literal["per_block", "shared", "constant"]
Modulation = tuple[Tensor, ...]  # gamma1, gamma2, scale1, scale2, shift1, shift2, each (B or 1, 1, C)


class Linear32(KeepFloat32, nn.Linear):
    """A linear layer that stays float32 under `.to(bfloat16)` and takes any float input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Drop whole rows of a residual branch with probability `rate`, scaling up the others (training only)."""
    if rate == 0.0 or not training:
        return x
    keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * keep / (1 - rate)


class Attention(nn.Module):
    """Multi-head self-attention; q and v have biases, k has none.

    With `qk_norm`, q and k have unit length and a learned scale per head (at most 100) multiplies q; without,
    VAR's softmax scale is 0.25 / sqrt(D).
    """

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(hidden_size))
        self.v_bias = nn.Parameter(torch.zeros(hidden_size))
        self.scale_mul_1H11 = (
            nn.Parameter(torch.full((1, num_heads, 1, 1), math.log(4.0))) if qk_norm else None
        )
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, x_BLC: Tensor, *, mask: Tensor | None = None, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        b, length, c = x_BLC.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x_BLC, self.qkv.weight, bias).view(b, length, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, L, D) each
        scale = 0.25 / math.sqrt(q.shape[-1])
        if self.scale_mul_1H11 is not None:
            q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(math.log(100.0)).exp().to(q.dtype)
            k = F.normalize(k, dim=-1)
            scale = 1.0
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        out = attend(q, k.to(q.dtype), v, mask=mask, scale=scale)
        return self.proj(out.transpose(1, 2).reshape(b, length, c))


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear."""

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, mlp_size)
        self.fc2 = nn.Linear(mlp_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class AdaLNBlock(nn.Module):
    """x + γ₁ Attn(LN(x)(1 + s₁) + b₁), then the same with the feed-forward.

    Args:
        modulation: "per_block" = a linear layer of the condition in every block; "shared" = one for all
            blocks plus a learned offset per block; "constant" = the offset alone.
        drop_path: probability of dropping a branch in training.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_size: int,
        *,
        modulation: ModulationKind,
        qk_norm: bool,
        norm_eps: float,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_eps, self.drop_path, self.constant = norm_eps, drop_path, modulation == "constant"
        self.attn = Attention(hidden_size, num_heads, qk_norm)
        self.ffn = FeedForward(hidden_size, mlp_size)
        if modulation == "per_block":
            self.modulation = nn.Linear(hidden_size, 6 * hidden_size)
        else:
            self.modulation_offset = nn.Parameter(torch.zeros(1, 1, 6, hidden_size))

    def modulations(self, condition_BC: Tensor, shared_B16C: Tensor | None) -> Modulation:
        """The six vectors of this block; `shared_B16C` is the model's shared part, if it has one."""
        if hasattr(self, "modulation"):
            vectors = self.modulation(F.silu(condition_BC)).view(len(condition_BC), 1, 6, -1)
        else:
            vectors = self.modulation_offset if shared_B16C is None else self.modulation_offset + shared_B16C
        return vectors.unbind(2)

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        *,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation
        h = self.attn(self._norm(x, scale1, shift1), mask=mask, cache=cache, layer=layer)
        x = x + drop_path(h * gamma1, self.drop_path, self.training)
        h = self.ffn(self._norm(x, scale2, shift2))
        return x + drop_path(h * gamma2, self.drop_path, self.training)

    def _norm(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if self.constant:  # an ordinary affine norm, fused: 2 passes over x instead of 4
            return F.layer_norm(x, x.shape[-1:], 1 + scale.flatten(), shift.flatten(), self.norm_eps)
        return F.layer_norm(x, x.shape[-1:], eps=self.norm_eps) * (1 + scale) + shift


class AdaLNHead(nn.Module):
    """LN(x)(1 + s) + b in float32; (s, b) a linear layer of the condition, or two learned vectors."""

    def __init__(self, hidden_size: int, *, modulation: ModulationKind, norm_eps: float) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        if modulation == "constant":
            self.modulation_offset = nn.Parameter(torch.zeros(1, 1, 2, hidden_size))
        else:
            self.modulation = Linear32(hidden_size, 2 * hidden_size)

    def modulations(self, condition_BC: Tensor) -> Modulation:
        """Scale and shift, each (B or 1, 1, C)."""
        if hasattr(self, "modulation_offset"):
            return self.modulation_offset.unbind(2)
        return self.modulation(F.silu(condition_BC)).view(len(condition_BC), 1, 2, -1).unbind(2)

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        scale, shift = modulation
        return F.layer_norm(x.float(), x.shape[-1:], eps=self.norm_eps) * (1 + scale) + shift
