"""The VQGAN convolutions of MaskGIT and MAGE (`LTH14/mage`), which KARL and TiTok decode with.

Unlike `nn/cnn.py`: no attention; no bias in blocks and in the encoder's first layer; averages halve the size;
a decoder level has as many blocks as an encoder level; and where a block changes the number of channels, its
shortcut starts from the block's *own* branch, so that the input reaches the output through the branch alone.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from visgen.nn.cnn import Upsample


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class MaskGITBlock(nn.Module):
    """norm, SiLU, conv, twice; plus the input, or a 1×1 convolution of the branch where channels change."""

    def __init__(self, in_channels: int, out_channels: int, groups: int = 32) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = _norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(out_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(h) if hasattr(self, "nin_shortcut") else x)


class _Level(nn.Module):
    def __init__(self, channels: list[int], groups: int, upsample: bool = False) -> None:
        super().__init__()
        self.block = nn.ModuleList(MaskGITBlock(i, o, groups) for i, o in pairwise(channels))
        if upsample:
            self.upsample = Upsample(channels[-1])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.upsample(x) if hasattr(self, "upsample") else x


class _Mid(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = MaskGITBlock(channels, channels, groups)
        self.block_2 = MaskGITBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x))


class MaskGITEncoder(nn.Module):
    """Images (B, C_in, H, W) → features (B, z_channels, H/f, W/f), f = 2^(levels − 1).

    Args:
        in_channels, z_channels: channels of images and features.
        ch, ch_mult: channels of the first level, and of each level in multiples of it (official: 128,
            (1, 1, 2, 2, 4)).
        num_res_blocks: blocks of each level (official: 2).
        groups: of the norms.
    """

    def __init__(
        self,
        in_channels: int,
        ch: int,
        ch_mult: tuple[int, ...],
        num_res_blocks: int,
        z_channels: int,
        groups: int = 32,
    ) -> None:
        super().__init__()
        widths = [ch] + [ch * mult for mult in ch_mult]
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            _Level([before] + [after] * num_res_blocks, groups) for before, after in pairwise(widths)
        )
        self.mid = _Mid(widths[-1], groups)
        self.norm_out = _norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for index, level in enumerate(self.down):
            h = level(F.avg_pool2d(h, 2) if index else h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class MaskGITDecoder(nn.Module):
    """Features (B, z_channels, h, w) → images (B, C_out, h·f, w·f); `up.i` is level i (0 = finest), run from
    the last. Arguments as in `MaskGITEncoder`."""

    def __init__(
        self,
        out_channels: int,
        ch: int,
        ch_mult: tuple[int, ...],
        num_res_blocks: int,
        z_channels: int,
        groups: int = 32,
    ) -> None:
        super().__init__()
        widths = [ch * mult for mult in ch_mult]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = _Mid(widths[-1], groups)
        inputs = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            _Level([before] + [width] * num_res_blocks, groups, upsample=index > 0)
            for index, (before, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.norm_out = _norm(widths[0], groups)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))
