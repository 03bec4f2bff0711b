"""What FlexTok's encoder and decoder are made of (arXiv 2502.13967): patches, positions, attention, blocks.

Norms have no weights, linear layers no biases. Tokens are patches first, then registers.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.attention import attend
from visgen.nn.llama import SwiGLU

PositionKind = Literal["sincos", "learnable_sum", "learnable_prod"]
PositionScaling = Literal["absolute", "interpolate"]
EPS = 1e-5


def norm(x: Tensor) -> Tensor:
    """Layer norm without weights over the last axis."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def patchify(x_BCHW: Tensor, patch: int) -> Tensor:
    """Patches (B, H/p, W/p, p·p·C) of (B, C, H, W), channels fastest."""
    b, c, h, w = x_BCHW.shape
    x = x_BCHW.view(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, h // patch, w // patch, -1)


def unpatchify(x_BHWP: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify`: (B, C, H, W)."""
    b, h, w, _ = x_BHWP.shape
    x = x_BHWP.view(b, h, w, patch, patch, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h * patch, w * patch)


def sincos(width: int, sizes: tuple[int, ...]) -> Tensor:
    """Sines and cosines (1, D, n0[, n1]); each axis gets an equal share of the D channels."""
    axes = torch.meshgrid(*[torch.arange(n).float() for n in sizes], indexing="ij")
    count = width // (2 * len(sizes))
    omega = 10000.0 ** (-torch.arange(count).float() / count)
    angles = [omega.view(-1, *[1] * len(sizes)) * axis for axis in axes]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())])[None]


class Positions(nn.Module):
    """A table of what positions of one or two axes add to their tokens.

    Args:
        width: D, a multiple of 2 per axis and wave for "sincos".
        sizes: (n,) or (n0, n1), the largest lengths.
        kind: "sincos", which is not trained, or the sum or product of a learned vector per axis.
        scaling: for fewer positions, "absolute" takes the first ones and "interpolate" resizes the table.

    Raises:
        InputError: a width that does not divide.
    """

    def __init__(
        self, width: int, sizes: tuple[int, ...], kind: PositionKind, scaling: PositionScaling = "absolute"
    ) -> None:
        super().__init__()
        self.sizes, self.kind, self.scaling = tuple(sizes), kind, scaling
        if kind == "sincos":
            if width % (2 * len(sizes)):
                raise InputError(f"width={width} must be a multiple of {2 * len(sizes)} for sincos positions")
            self.pos_table = nn.Parameter(sincos(width, self.sizes), requires_grad=False)
        else:
            table = torch.empty(len(sizes), 1, width, max(sizes))
            self.pos_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))

    def forward(self, *lengths: int) -> Tensor:
        """Vectors (n0[·n1], D) of a grid of `lengths` positions.

        Raises:
            InputError: more positions than the table has, with "absolute" scaling.
        """
        table = self._table()
        if tuple(lengths) != self.sizes and self.scaling == "interpolate" and len(lengths) == 2:
            table = F.interpolate(table.float(), lengths, mode="bilinear", align_corners=True).to(table.dtype)
        elif any(length > size for length, size in zip(lengths, self.sizes, strict=True)):
            raise InputError(f"{lengths} positions are more than the {self.sizes} of the position table")
        return table[(0, slice(None), *[slice(length) for length in lengths])].flatten(1).T

    def _table(self) -> Tensor:
        """(1, D, n0[, n1])."""
        if self.kind == "sincos" or len(self.sizes) == 1:
            return self.pos_table if self.kind == "sincos" else self.pos_table[0]
        rows = self.pos_table[0, :, :, : self.sizes[0], None]
        columns = self.pos_table[1, :, :, None, : self.sizes[1]]
        return rows + columns if self.kind == "learnable_sum" else rows * columns


class Attention(nn.Module):
    """Multi-head self-attention, queries and keys normed per head, softmax scale 8 / head_dim (muP).

    Raises:
        InputError: a width that is no multiple of `head_dim`.
    """

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        if head_dim < 1 or width % head_dim:
            raise InputError(f"head_dim={head_dim} must divide the width {width}")
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x_BLC: Tensor, bias: Tensor | None = None) -> Tensor:
        """Every token sees every other; `bias` (B or 1, L) is added to the scores of each key."""
        q, k, v = self.heads(x_BLC)
        return self.join(self.attend(q, k, v, None if bias is None else bias[:, None, None]))

    def nested(self, x_BLC: Tensor, patches: int, mask: Tensor) -> Tensor:
        """Patches see patches alone; the others see what `mask` (L - patches, L) allows."""
        q, k, v = self.heads(x_BLC)
        own = self.attend(*(part[:, :, :patches] for part in (q, k, v)))
        return self.join(torch.cat([own, self.attend(q[:, :, patches:], k, v, mask)], dim=2))

    def heads(self, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, L, D) each."""
        b, length, c = x_BLC.shape
        qkv = self.qkv(x_BLC).view(b, length, 3, c // self.head_dim, self.head_dim)
        q, k = norm(qkv[:, :, :2]).to(qkv.dtype).transpose(1, 3).unbind(2)
        return q, k, qkv[:, :, 2].transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, H, Lq, D)."""
        return attend(q, k, v, mask=mask, scale=8 / self.head_dim)

    def join(self, heads_BHLD: Tensor) -> Tensor:
        """(B, L, C)."""
        return self.proj(heads_BHLD.transpose(1, 2).flatten(2))


def mlp_size(width: int, ratio: float) -> int:
    """Hidden width of SwiGLU: two thirds of ratio · D."""
    return int(2 * int(ratio * width) / 3)


class EncoderBlock(nn.Module):
    """x + attention(LN x), then x + SwiGLU(LN x)."""

    def __init__(self, width: int, head_dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = Attention(width, head_dim)
        self.ffn = SwiGLU(width, mlp_size(width, mlp_ratio))

    def forward(self, x_BLC: Tensor, patches: int, mask: Tensor) -> Tensor:
        x = x_BLC + self.attn.nested(norm(x_BLC), patches, mask)
        return x + self.ffn(norm(x))


class DecoderBlock(nn.Module):
    """The same around adaLN-zero: vectors of the time scale and shift what goes in and gate what comes out.

    Args:
        expansion: sets of vectors: one for all tokens, or one for patches and one for registers.
    """

    def __init__(self, width: int, head_dim: int, mlp_ratio: float, expansion: int) -> None:
        super().__init__()
        self.expansion = expansion
        self.attn = Attention(width, head_dim)
        self.ffn = SwiGLU(width, mlp_size(width, mlp_ratio))
        self.modulation = nn.Linear(width, expansion * 6 * width)

    def modulations(self, time_BC: Tensor) -> Tensor:
        """Vectors (B, expansion, 6·D) of time embeddings behind SiLU."""
        return self.modulation(time_BC).unflatten(1, (self.expansion, -1))

    def forward(self, x_BLC: Tensor, vectors: Tensor, segments: Tensor, bias: Tensor | None) -> Tensor:
        """`vectors` (B or 1, expansion, 6·D); `segments` (L,) says which of them a token takes."""
        each = vectors[:, segments] if self.expansion > 1 else vectors
        gate1, gate2, shift1, scale1, shift2, scale2 = each.chunk(6, dim=-1)
        x = x_BLC + gate1 * self.attn(norm(x_BLC) * (1 + scale1) + shift1, bias)
        return x + gate2 * self.ffn(norm(x) * (1 + scale2) + shift2)


class TimeEmbedding(nn.Module):
    """Cosines and sines of t · 1000 / max_timestep, frequencies falling from 1 to 1/256; then two layers."""

    def __init__(self, width: int, frequencies: int, max_timestep: float) -> None:
        super().__init__()
        self.frequencies, self.max_timestep = frequencies, max_timestep
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor) -> Tensor:
        """Embeddings (B, D)."""
        half = self.frequencies // 2
        f = 1000.0 / self.max_timestep * 256.0 ** (-torch.arange(half, device=t_B.device).float() / half)
        angles = t_B.float()[:, None] * f
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.mlp(F.pad(waves, (0, self.frequencies % 2)).to(self.mlp[0].weight.dtype))
