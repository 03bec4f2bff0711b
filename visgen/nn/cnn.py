"""Convolutional encoder and decoder of the VQGAN family (Esser et al. 2021), one pair for all tokenizers.

Blocks carry the taming-transformers names (`down.0.block.1.conv1`), which most official checkpoints use.
Flags cover
small models: `patch_size` folds pixels into channels first, `mid_blocks` leaves out the blocks at the lowest
level.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.nn.attention import attend


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _silu(x: Tensor) -> Tensor:
    """SiLU of a norm's output, in place where no gradient needs it.

    glibc gives blocks over 32 MB back to the system at once, and touching 42 MB anew (160 channels of 256²)
    costs 20 ms, five times the SiLU itself.
    """
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _plus(h: Tensor, x: Tensor) -> Tensor:
    """h + x, into a convolution's output h where no gradient needs it (see `_silu`)."""
    return h + x if torch.is_grad_enabled() else h.add_(x)


def _fast_layout(x: Tensor) -> Tensor:
    """Channels last where a CPU convolves faster so: without gradients, from 32 × 32 positions on.

    160 channels at 256²: 105 instead of 89 GFLOP/s in float32, 220 instead of 173 in bfloat16 (one Zen 4
    core). On smaller grids reordering the weights costs more than it gains.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.shape[-2] * x.shape[-1] < 1024:
        return x
    return x.contiguous(memory_format=torch.channels_last)


class ResBlock(nn.Module):
    """norm, SiLU, conv, twice, beside a shortcut (1×1 conv where channels change)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(_silu(self.norm1(x)))
        h = self.conv2(_silu(self.norm2(h)))
        return _plus(h, self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Single-head self-attention over all H·W positions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)  # output channels: all q, all k, all v
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = (
            self.qkv(self.norm(x)).reshape(b, 3, 1, c, h * w).transpose(-1, -2).unbind(1)
        )  # (B, 1, HW, C)
        out = attend(q, k, v)
        return x + self.proj_out(out.transpose(-1, -2).reshape(b, c, h, w))


class Downsample(nn.Module):
    """Stride-2 conv after padding one zero right and bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest ×2, then conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution; each ResBlock is followed by attention where there is any."""

    def __init__(self, channels: list[int], groups: int, attention: bool) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.block = nn.ModuleList(ResBlock(i, o, groups) for i, o in pairs)
        self.attn = nn.ModuleList(AttnBlock(o, groups) for _, o in pairs if attention)

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        return x


class Mid(nn.Module):
    """ResBlock, attention, ResBlock at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class ConvEncoder(nn.Module):
    """Images (B, C_in, H, W) → features (B, C_out, H/f, W/f), f = patch_size · 2^(levels − 1).

    Attention stands at the last level only, where `attention` asks for it.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        ch: int,
        ch_mult: tuple[int, ...],
        num_res_blocks: int,
        groups: int,
        attention: bool = True,
        mid_blocks: bool = True,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.conv_in = nn.Conv2d(in_channels * patch_size**2, ch, 3, padding=1)
        widths = [ch] + [ch * mult for mult in ch_mult]
        last = len(ch_mult) - 1
        self.down = nn.ModuleList()
        for i, (before, after) in enumerate(pairwise(widths)):
            level = Level([before] + [after] * num_res_blocks, groups, attention and i == last)
            if i != last:
                level.downsample = Downsample(after)
            self.down.append(level)
        if mid_blocks:
            self.mid = Mid(widths[-1], groups)
        self.norm_out = _norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(F.pixel_unshuffle(x, self.patch_size) if self.patch_size > 1 else x)
        for level in self.down:
            h = level(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        if hasattr(self, "mid"):
            h = self.mid(h)
        return self.conv_out(_silu(self.norm_out(h)))


class ConvDecoder(nn.Module):
    """Features (B, C_in, h, w) → images (B, C_out, h·f, w·f). `up.i` is level i (0 = finest), run from the
    last."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        ch: int,
        ch_mult: tuple[int, ...],
        num_res_blocks: int,
        groups: int,
        attention: bool = True,
        mid_blocks: bool = True,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        widths = [ch * mult for mult in ch_mult]
        last = len(ch_mult) - 1
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        if mid_blocks:
            self.mid = Mid(widths[-1], groups)
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[min(i + 1, last)]
            level = Level([before] + [width] * (num_res_blocks + 1), groups, attention and i == last)
            if i > 0:
                level.upsample = Upsample(width)
            self.up.append(level)
        self.norm_out = _norm(widths[0], groups)
        self.conv_out = nn.Conv2d(widths[0], out_channels * patch_size**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        if hasattr(self, "mid"):
            h = self.mid(h)
        for level in reversed(self.up):
            h = level(_fast_layout(h))
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        h = self.conv_out(_silu(self.norm_out(h))).contiguous()
        return F.pixel_shuffle(h, self.patch_size) if self.patch_size > 1 else h
