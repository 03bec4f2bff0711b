"""Finite scalar quantization (FSQ, arXiv 2309.15505): each channel is bounded and rounded to a few levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.precision import KeepFloat32

MAX_CODES = 2**62


@dataclass(frozen=True, eq=False)
class FSQuantization:
    """Codes (…, F) in [-1, 1] with straight-through gradients, and ids (…) int64."""

    codes: Tensor
    ids: Tensor


class FSQ(KeepFloat32):
    """Rounds F channels to `levels[c]` values each; an id counts in the mixed base of the levels, the first
    channel fastest. Has no parameters, and computes in float32 under any autocast.

    Args:
        levels: values per channel, 2 or more.

    Raises:
        InputError: no levels, one below 2, or more codes than an int64 counts.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        if not self.levels or min(self.levels) < 2 or math.prod(self.levels) > MAX_CODES:
            raise InputError(f"levels={self.levels} must be numbers from 2, at most 2^62 codes in all")

    @property
    def codebook_size(self) -> int:
        """V, the product of the levels."""
        return math.prod(self.levels)

    def bound(self, z: Tensor) -> Tensor:
        """Features (…, F) squashed to the range of their levels; rounding gives -(L // 2) … (L - 1) // 2."""
        levels = torch.tensor(self.levels, dtype=torch.float32, device=z.device)
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        with torch.autocast(z.device.type, enabled=False):
            return torch.tanh(z.float() + torch.atanh(offset / half)) * half - offset

    def forward(self, z: Tensor) -> FSQuantization:
        """Quantise features (…, F)."""
        bounded = self.bound(z)
        rounded = bounded.detach().round()
        codes = (rounded + (bounded - bounded.detach())) / self._halves(z.device)
        return FSQuantization(codes, self._count(rounded))

    def ids(self, codes: Tensor) -> Tensor:
        """Ids (…) of codes (…, F) in [-1, 1]."""
        return self._count((codes.float() * self._halves(codes.device)).round())

    def codes(self, ids: Tensor) -> Tensor:
        """Codes (…, F) float32 of ids (…).

        Raises:
            InputError: ids beyond the codebook.
        """
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.codebook_size:
            told = f"ids run from {int(ids.min())} to {int(ids.max())}"
            raise InputError(f"{told}; this codebook has 0 … {self.codebook_size - 1}")
        levels = torch.tensor(self.levels, device=ids.device)
        digits = ids[..., None] // self._basis(ids.device) % levels
        halves = levels // 2
        return (digits - halves).float() / halves

    def _count(self, steps: Tensor) -> Tensor:
        digits = steps.long() + torch.tensor(self.levels, device=steps.device) // 2
        return (digits * self._basis(steps.device)).sum(-1)

    def _halves(self, device: torch.device) -> Tensor:
        return torch.tensor([level // 2 for level in self.levels], dtype=torch.float32, device=device)

    def _basis(self, device: torch.device) -> Tensor:
        return torch.tensor([math.prod(self.levels[:c]) for c in range(len(self.levels))], device=device)
