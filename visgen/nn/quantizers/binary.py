"""Binary quantizer (ELM's BAE, arXiv 2410.16257): a position becomes n bits, each a Bernoulli variable.

A feature's code is the sum of the vectors of its set bits. The n bits are read as K sub-codes of n / K bits,
the first bit the most significant; both directions are shifts, so that no table of 2^n codes is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visgen.nn.noise import Noise
from visgen.nn.precision import KeepFloat32


@dataclass(frozen=True, eq=False)
class BinaryQuantization:
    """What the training pass yields.

    `bits`: bool (B, n, h, w); `fhat` (B, C, h, w) with straight-through gradients to the probabilities;
    `loss`: the official code's regulariser, whose weight is 0 in the published runs.
    """

    bits: Tensor
    fhat: Tensor
    loss: Tensor


class BinaryQuantizer(KeepFloat32):
    """Probabilities of n bits, and a vector for each bit.

    Args:
        num_bits: n.
        channels: C of the features that are quantised and of the vectors.
    """

    def __init__(self, num_bits: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, num_bits, 1)
        self.embed = nn.Embedding(num_bits, channels)

    def probabilities(self, features_BCHW: Tensor) -> Tensor:
        """Probability that each bit is set, (B, n, h, w)."""
        with torch.autocast(features_BCHW.device.type, enabled=False):
            return self.proj(features_BCHW.float()).sigmoid()

    def bits(self, probabilities: Tensor, noise: Noise | None = None) -> Tensor:
        """Bool bits of probabilities: `p > 0.5`, or drawn (u < p) where `noise` is given."""
        if noise is None:
            return probabilities > 0.5
        return noise.uniform(*probabilities.shape, device=probabilities.device) < probabilities

    def lookup(self, bits_BNHW: Tensor) -> Tensor:
        """Sum of the vectors of set bits, (B, C, h, w) float32."""
        return torch.einsum("bnhw,nc->bchw", bits_BNHW.to(self.embed.weight.dtype), self.embed.weight)

    def forward(self, features_BCHW: Tensor, noise: Noise | None = None) -> BinaryQuantization:
        """Training pass; the loss is mean σ(p) (1 − σ(p)), where p is a probability already."""
        p = self.probabilities(features_BCHW)
        bits = self.bits(p, noise)
        with torch.autocast(p.device.type, enabled=False):
            fhat = self.lookup(bits.to(p.dtype) + (p - p.detach()))
        again = p.sigmoid()
        return BinaryQuantization(bits, fhat, (again * (1 - again)).mean())


def bits_to_ids(bits_BNHW: Tensor, num_codes: int) -> Tensor:
    """Sub-code ids (B, h·w, K) int64 of bits (B, n, h, w); K = `num_codes`, n / K bits each."""
    chunks = bits_BNHW.flatten(2).transpose(1, 2).unflatten(2, (num_codes, -1))  # (B, h·w, K, n / K)
    return (chunks.long() << _shifts(chunks.shape[-1], chunks.device)).sum(-1)


def ids_to_bits(ids_BLK: Tensor, code_bits: int, size: tuple[int, int]) -> Tensor:
    """Bool bits (B, K · code_bits, h, w) of sub-code ids (B, h·w, K); `size` = (h, w)."""
    bits = (ids_BLK[..., None] >> _shifts(code_bits, ids_BLK.device)) & 1
    return bits.bool().flatten(2).transpose(1, 2).unflatten(2, size)


def _shifts(code_bits: int, device: torch.device) -> Tensor:
    return torch.arange(code_bits - 1, -1, -1, device=device)
