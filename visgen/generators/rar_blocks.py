"""RAR's transformer block and head: layer norms shifted and scaled by a vector of class and step."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from visgen.nn.attention import attend
from visgen.nn.slot_cache import SlotCache

NORM_EPS = 1e-6  # of all norms


class RARAttention(nn.Module):
    """Self-attention with a layer norm on each head's queries and keys."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = nn.LayerNorm(hidden_size // num_heads, eps=NORM_EPS)
        self.k_norm = nn.LayerNorm(hidden_size // num_heads, eps=NORM_EPS)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, x_BLC: Tensor, *, mask: Tensor | None = None, cache: SlotCache | None = None, layer: int = 0
    ) -> Tensor:
        b, length, width = x_BLC.shape
        q, k, v = self.qkv(x_BLC).view(b, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if cache is not None:
            k, v = cache.write(layer, k, v)
        out = attend(q, k, v, mask=mask)
        return self.proj(out.transpose(1, 2).reshape(b, length, width))


class RARBlock(nn.Module):
    """x + γ₁ attention(LN(x)(1 + s₁) + b₁), then the same with an MLP; `dropout` on both branches."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.attn = RARAttention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.fc1 = nn.Linear(hidden_size, mlp_size)
        self.fc2 = nn.Linear(mlp_size, hidden_size)
        self.modulation = nn.Linear(hidden_size, 6 * hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BLC: Tensor,
        step_BLC: Tensor,
        *,
        mask: Tensor | None = None,
        cache: SlotCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        vectors = self.modulation(F.silu(step_BLC)).chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = vectors
        h = self.attn(self.norm1(x_BLC) * (1 + scale1) + shift1, mask=mask, cache=cache, layer=layer)
        x = x_BLC + gate1 * self.dropout(h)
        h = self.fc2(self.dropout(F.gelu(self.fc1(self.norm2(x) * (1 + scale2) + shift2))))
        return x + gate2 * self.dropout(h)


class RARHead(nn.Module):
    """LN(x)(1 + s) + b, then logits."""

    def __init__(self, hidden_size: int, codebook_size: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(hidden_size, 2 * hidden_size)  # scale first, unlike in blocks
        self.lm_head = nn.Linear(hidden_size, codebook_size)

    def features(self, x_BLC: Tensor, step_BLC: Tensor) -> Tensor:
        """What the logits are a linear function of, (B, L, C)."""
        scale, shift = self.modulation(F.silu(step_BLC)).chunk(2, dim=-1)
        return F.layer_norm(x_BLC, x_BLC.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift

    def forward(self, features_BLC: Tensor) -> Tensor:
        """Logits (B, L, V) float32."""
        return self.lm_head(features_BLC).float()
