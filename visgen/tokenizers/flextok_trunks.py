"""FlexTok's encoder (latents → register features) and decoder (noisy latents, registers → velocity).

Both do exactly what masking all registers does, with less: the encoder computes only the registers that are
asked for, and the decoder keeps one of the masked registers, which are all alike, and counts it many times by
adding the logarithm of their number to its attention scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.tokenizers.flextok_blocks import (
    EPS,
    DecoderBlock,
    EncoderBlock,
    PositionKind,
    Positions,
    PositionScaling,
    TimeEmbedding,
    norm,
    patchify,
    unpatchify,
)


@dataclass(frozen=True)
class TrunkSize:
    """Size of a transformer.

    Args:
        width, depth, head_dim, mlp_ratio: official: width 64 · depth, heads of 64, ratio 4.
        patch_size: latent positions per patch, along each side.
        positions, position_sizes, position_scaling: see `Positions`; sizes are patches per side.
    """

    width: int = 768
    depth: int = 12
    head_dim: int = 64
    mlp_ratio: float = 4.0
    patch_size: int = 2
    positions: PositionKind = "sincos"
    position_sizes: tuple[int, int] = (16, 16)
    position_scaling: PositionScaling = "absolute"

    def __post_init__(self) -> None:
        for name in ("width", "depth", "head_dim", "mlp_ratio", "patch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be 1 or more")
        if min(self.position_sizes) < 1:
            raise InputError(f"position_sizes={self.position_sizes} must be 1 or more")


@dataclass(frozen=True)
class DecoderSize(TrunkSize):
    """Size of the decoder.

    Args:
        register_positions: kind of the registers' position table, None for none.
        adaln_expansion: 2 = vectors of their own for patches and registers, 1 = shared.
        frequencies, max_timestep: of the time embedding; t runs over [0, 1].
    """

    register_positions: PositionKind | None = "learnable_sum"
    adaln_expansion: int = 2
    frequencies: int = 256
    max_timestep: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adaln_expansion not in (1, 2):
            raise InputError(f"adaln_expansion={self.adaln_expansion} must be 1 or 2")
        if self.frequencies < 2 or self.max_timestep <= 0:
            raise InputError(
                f"frequencies={self.frequencies} must be 2 or more, max_timestep={self.max_timestep} above 0"
            )


class PatchEmbedding(nn.Module):
    """Patches of latents as tokens, with their positions.

    Args:
        size: of the transformer.
        channels: C of the latents.
    """

    def __init__(self, size: TrunkSize, channels: int) -> None:
        super().__init__()
        self.patch = size.patch_size
        self.proj = nn.Linear(channels * self.patch**2, size.width)
        self.positions = Positions(size.width, size.position_sizes, size.positions, size.position_scaling)

    def count(self, x_BCHW: Tensor) -> int:
        """How many patches latents have."""
        return x_BCHW[0, 0].numel() // self.patch**2

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, h·w, D) and (h, w).

        Raises:
            InputError: sides that are no multiples of the patch, or more patches than positions.
        """
        if x_BCHW.shape[-2] % self.patch or x_BCHW.shape[-1] % self.patch:
            raise InputError(
                f"latents of {tuple(x_BCHW.shape[-2:])}: both sides must be multiples of {self.patch}"
            )
        patches = patchify(x_BCHW.to(self.proj.weight.dtype), self.patch)
        h, w = patches.shape[1:3]
        return self.proj(patches.flatten(1, 2)) + self.positions(h, w), (h, w)


class FlexTokEncoder(nn.Module):
    """Latents → features of the registers; register r sees all patches and the registers up to r.

    Args:
        size: of the transformer.
        channels: C of the latents.
        num_registers: R.
        outputs: F, features per register.
    """

    def __init__(self, size: TrunkSize, channels: int, num_registers: int, outputs: int) -> None:
        super().__init__()
        self.patches = PatchEmbedding(size, channels)
        self.registers = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_registers, size.width), std=0.02))
        self.blocks = nn.ModuleList(
            EncoderBlock(size.width, size.head_dim, size.mlp_ratio) for _ in range(size.depth)
        )
        self.head = nn.Linear(size.width, outputs)

    def forward(self, latents_BCHW: Tensor, count: int) -> Tensor:
        """Features (B, count, F) of the first `count` registers."""
        patches, (h, w) = self.patches(latents_BCHW)
        registers = self.registers[:count].to(patches.dtype).expand(len(patches), -1, -1)
        x = torch.cat([patches, registers], dim=1)
        mask = torch.ones(count, h * w + count, dtype=torch.bool, device=x.device).tril(h * w)
        for block in self.blocks:
            x = block(x, h * w, mask)
        return self.head(norm(x[:, h * w :]))


@dataclass(frozen=True, eq=False)
class Registers:
    """What the decoder's patches attend to: tokens (B, K, D), and (B or 1, K) added to their scores."""

    tokens: Tensor
    bias: Tensor | None = None

    @staticmethod
    def cat(first: Registers, second: Registers) -> Registers:
        """Two batches of as many registers and the same bias."""
        bias = first.bias
        if bias is not None and len(bias) > 1:
            bias = torch.cat([bias, bias])
        return Registers(torch.cat([first.tokens, second.tokens]), bias)


@dataclass(frozen=True, eq=False)
class TimeVectors:
    """What times t (N) make of every block and of the head: (N, expansion, 6·D) each, and (N, 2·D)."""

    blocks: tuple[Tensor, ...]
    head: Tensor

    def at(self, row: int) -> TimeVectors:
        """One of the times, N = 1."""
        return TimeVectors(tuple(m[row : row + 1] for m in self.blocks), self.head[row : row + 1])


class FlexTokDecoder(nn.Module):
    """Velocity of noisy latents under full attention over patches and registers.

    Args:
        size: of the transformer.
        channels: C of the latents.
        num_registers: R.
        inputs: F, channels of a code.
    """

    def __init__(self, size: DecoderSize, channels: int, num_registers: int, inputs: int) -> None:
        super().__init__()
        self.num_registers = num_registers
        self.from_codes = nn.Linear(inputs, size.width)
        kind = size.register_positions
        self.register_positions = Positions(size.width, (num_registers,), kind) if kind else None
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(size.width), std=0.02))
        self.null_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(size.width), std=0.02))
        self.patches = PatchEmbedding(size, channels)
        self.time = TimeEmbedding(size.width, size.frequencies, size.max_timestep)
        self.blocks = nn.ModuleList(
            DecoderBlock(size.width, size.head_dim, size.mlp_ratio, size.adaln_expansion)
            for _ in range(size.depth)
        )
        self.head_modulation = nn.Linear(size.width, 2 * size.width)
        self.head = nn.Linear(size.width, channels * size.patch_size**2)

    def registers(
        self, codes_BKF: Tensor, counts: int | Tensor, null: Tensor | None = None, *, collapse: bool = True
    ) -> Registers:
        """Register tokens of codes of which the first `counts` count; the others to R are masked.

        Args:
            codes_BKF: K from the largest count to R.
            counts: of all images, or (B,).
            null: bool (B,), images without condition: all their registers are the null token.
            collapse: False keeps all R registers, as the official code does.
        """
        numbers = torch.as_tensor(counts).reshape(-1, 1)  # (1, 1) or (B, 1)
        most = int(numbers.max()) if collapse else self.num_registers
        tokens = self._tokens(codes_BKF[:, :most], most)
        numbers, mask_token = numbers.to(tokens.device), self.mask_token.to(tokens.dtype)
        present = torch.arange(most, device=tokens.device) < numbers
        tokens = torch.where(present[..., None], tokens, mask_token)
        bias = None
        if collapse and int(numbers.min()) < self.num_registers:
            tokens = torch.cat([tokens, mask_token.expand(len(tokens), 1, -1)], dim=1)
            shown = torch.zeros(present.shape, device=tokens.device).masked_fill(~present, -math.inf)
            bias = torch.cat([shown, (self.num_registers - numbers).float().log()], dim=1)
        if null is not None:
            tokens = torch.where(null[:, None, None], self.null_token.to(tokens.dtype), tokens)
        return Registers(tokens, bias)

    def null_registers(
        self, registers: Registers, *, collapse: bool = True, alike: bool = False
    ) -> Registers:
        """The registers of as many images without condition: the null token R times.

        Args:
            registers: of the images with their conditions.
            collapse: False gives all R of them, as the official code does.
            alike: as many as `registers` has, to be counted R times by the same bias.
        """
        token = self.null_token.to(registers.tokens.dtype)
        if alike:
            return Registers(token.expand_as(registers.tokens), registers.bias)
        count = 1 if collapse else self.num_registers
        bias = torch.full((1, 1), math.log(self.num_registers), device=token.device) if collapse else None
        return Registers(token.expand(len(registers.tokens), count, -1), bias)

    def _tokens(self, codes_BKF: Tensor, count: int) -> Tensor:
        codes = F.pad(codes_BKF, (0, 0, 0, count - codes_BKF.shape[1]))
        tokens = self.from_codes(codes.to(self.from_codes.weight.dtype))
        return tokens if self.register_positions is None else tokens + self.register_positions(count)

    def time_vectors(self, t_N: Tensor) -> TimeVectors:
        """Vectors of all blocks for times t (N,)."""
        time = F.silu(self.time(t_N))
        return TimeVectors(
            tuple(block.modulations(time) for block in self.blocks), self.head_modulation(time)
        )

    def forward(self, x_BCHW: Tensor, registers: Registers, times: TimeVectors) -> Tensor:
        """Velocity (B, C, H, W); `times` of each image, or of one time for all."""
        x, (h, w) = self.patches(x_BCHW)
        patches, count = h * w, registers.tokens.shape[1]
        x = torch.cat([x, registers.tokens], dim=1)
        segments = (torch.arange(patches + count, device=x.device) >= patches).long()
        bias = None if registers.bias is None else F.pad(registers.bias, (patches, 0))
        for block, vectors in zip(self.blocks, times.blocks, strict=True):
            x = block(x, vectors, segments, bias)
        shift, scale = times.head[:, None].chunk(2, dim=-1)
        out = self.head(norm(x[:, :patches]) * (1 + scale) + shift)
        return unpatchify(out.unflatten(1, (h, w)), self.patches.patch)


class AlignmentHead(nn.Module):
    """Predicts another network's features from those of patches (REPA, arXiv 2410.06940), in training only.

    Args:
        width: D of the decoder.
        hidden: width of the two hidden layers.
        outputs: channels of the features.
    """

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=EPS, elementwise_affine=False),
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
        )
        self.out_proj = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(…, outputs) of features (…, D)."""
        return self.out_proj(self.mlp(features))
