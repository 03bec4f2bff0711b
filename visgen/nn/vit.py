"""The pre-norm vision transformer block of KARL and TiTok: LayerNorm, attention of `nn.MultiheadAttention`'s
layout, GELU MLP, learned positions outside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.attention import attend


class SelfAttention(nn.Module):
    """Self-attention with the parameters of `nn.MultiheadAttention` (packed `in_proj`), through `attend`.

    Raises:
        InputError: heads that do not divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError(f"heads={heads} must divide the width {width}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # all q, all k, all v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BLC: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention within (B, L, C); mask as in `ViTBlock`."""
        b, length, width = x_BLC.shape
        packed = F.linear(x_BLC, self.in_proj_weight, self.in_proj_bias)
        q, k, v = packed.view(b, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out = attend(q, k, v, mask=_per_head(mask))
        return self.out_proj(out.transpose(1, 2).reshape(b, length, width))


class MLP(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class ViTBlock(nn.Module):
    """x += attention(ln_1 x); x += MLP(ln_2 x).

    Args:
        width, heads: channels C and attention heads.
        mlp_ratio: hidden channels of the MLP, in widths.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, int(width * mlp_ratio))

    def forward(self, x_BLC: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, C) → (B, L, C); bool mask (B, L) of keys or (B, L, L) of pairs, True = may attend.

        Every query needs a key: a row of a mask that is all False gives no numbers.
        """
        x_BLC = x_BLC + self.attn(self.ln_1(x_BLC), mask)
        return x_BLC + self.mlp(self.ln_2(x_BLC))


def init_vit(module: nn.Module, std: float = 0.02) -> None:
    """Start every linear layer and convolution in `module` from a truncated normal law, with zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _per_head(mask: Tensor | None) -> Tensor | None:
    """A mask that is the same in all heads: (B, L) → (B, 1, 1, L), (B, L, L) → (B, 1, L, L)."""
    if mask is None:
        return None
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]
