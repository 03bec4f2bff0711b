"""Multi-scale residual vector quantizer (VAR, arXiv 2404.02905, algorithms 1 and 2).

A feature f (B, C, H, W) is approached by a sum over growing grids: each scale quantises what is left, is
upsampled to H × W and smoothed by a convolution φ. Everything here runs in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.precision import KeepFloat32

Size = tuple[int, int]


@lru_cache
def phi_index(num_phi: int, num_scales: int) -> tuple[int, ...]:
    """Which of `num_phi` convolutions serves each scale: the nearest tick in float64, the first on ties."""
    edge = 1 / 3 / num_phi if num_phi == 4 else 1 / 2 / num_phi
    ticks = np.linspace(edge, 1 - edge, num_phi)
    positions = [scale / max(num_scales - 1, 1) for scale in range(num_scales)]
    return tuple(int(np.argmin(np.abs(ticks - position))) for position in positions)


@dataclass(frozen=True, eq=False)
class MultiScaleQuantization:
    """What the training pass yields.

    `ids`: int64 (B, L); `fhat` (B, C, H, W) with gradients to codebook and φ; `loss`: codebook and
    commitment terms; `residuals` (N, C): the vectors that were quantised, for restarts.
    """

    ids: Tensor
    fhat: Tensor
    loss: Tensor
    residuals: Tensor


class MultiScaleVQ(KeepFloat32):
    """Codebook and φ convolutions.

    Args:
        codebook_size: V.
        latent_channels: C.
        num_scales: scales of the model's own layout; only `num_phi = 0` (one φ per scale) depends on it.
        num_phi: shared φ convolutions; 0 = one per scale, 1 = one for all.
        phi_ratio: r in φ(h) = (1 − r) h + r conv(h); its absolute value counts, ≤ 1e-6 is the identity.
        cosine: nearest code by cosine similarity instead of Euclidean distance.
        beta: weight of the commitment term.
    """

    def __init__(
        self,
        codebook_size: int,
        latent_channels: int,
        num_scales: int,
        num_phi: int = 4,
        phi_ratio: float = 0.5,
        cosine: bool = False,
        beta: float = 0.25,
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.cosine = cosine
        self.beta = beta
        self.phi_ratio = abs(phi_ratio)
        self.num_phi = num_phi or num_scales
        self.embedding = nn.Embedding(codebook_size, latent_channels)
        nn.init.trunc_normal_(self.embedding.weight, std=latent_channels**-0.5)
        convs = self.num_phi if self.phi_ratio > 1e-6 else 0
        self.phi = nn.ModuleList(
            nn.Conv2d(latent_channels, latent_channels, 3, padding=1) for _ in range(convs)
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Code vectors (…, C) of ids."""
        return self.embedding(ids)

    def nearest(self, vectors_NC: Tensor) -> Tensor:
        """Id of the nearest code of each vector, int64 (N,)."""
        codes = self.embedding.weight
        if self.cosine:
            return (F.normalize(vectors_NC, dim=-1) @ F.normalize(codes, dim=-1).T).argmax(dim=-1)
        distance = vectors_NC.square().sum(1, keepdim=True) + codes.square().sum(1)
        return distance.addmm(vectors_NC, codes.T, alpha=-2).argmin(dim=-1)

    def smooth(self, h_BCHW: Tensor, scale: int, num_scales: int) -> Tensor:
        """φ of a scale: (1 − r) h + r conv(h)."""
        if not len(self.phi):
            return h_BCHW
        conv = self.phi[phi_index(self.num_phi, num_scales)[scale]]
        with torch.autocast(h_BCHW.device.type, enabled=False):
            return torch.lerp(h_BCHW, conv(h_BCHW), self.phi_ratio)

    def contribution(self, h_BLC: Tensor, scale: int, sizes: Sequence[Size]) -> Tensor:
        """What code vectors of one scale add to f̂: φ(bicubic upsample), (B, C, H, W)."""
        h = _to_grid(h_BLC, sizes[scale])
        if scale != len(sizes) - 1:
            h = F.interpolate(h, size=sizes[-1], mode="bicubic")
        return self.smooth(h, scale, len(sizes))

    @staticmethod
    def next_input(fhat_BCHW: Tensor, size: Size) -> Tensor:
        """f̂ area-resized to the next scale, (B, h·w, C): what a generator predicts that scale from."""
        return F.interpolate(fhat_BCHW, size=size, mode="area").flatten(2).transpose(1, 2)

    def encode(self, f_BCHW: Tensor, sizes: Sequence[Size]) -> tuple[Tensor, list[Tensor]]:
        """Ids of all scales (B, L), and f̂ after each scale."""
        ids, fhats = [], []
        with torch.no_grad(), torch.autocast(f_BCHW.device.type, enabled=False):
            for step in self._descend(f_BCHW.float(), sizes):
                ids.append(step[0])
                fhats.append(step[1])
        return torch.cat(ids, dim=1), fhats

    def forward(self, f_BCHW: Tensor, sizes: Sequence[Size]) -> MultiScaleQuantization:
        """Training pass; the loss is (1/K) Σ_k [β mse(sg f̂_k, f) + mse(f̂_k, sg f)]."""
        with torch.autocast(f_BCHW.device.type, enabled=False):
            f = f_BCHW.float()
            fixed, loss = f.detach(), f.new_zeros(())
            ids, residuals = [], []
            for step_ids, fhat, vectors in self._descend(fixed, sizes):
                loss = loss + self.beta * F.mse_loss(f, fhat.detach()) + F.mse_loss(fhat, fixed)
                ids.append(step_ids)
                residuals.append(vectors)
        return MultiScaleQuantization(torch.cat(ids, dim=1), fhat, loss / len(sizes), torch.cat(residuals))

    def _descend(self, f: Tensor, sizes: Sequence[Size]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per scale: ids (B, h·w), f̂ so far (gradients to codebook and φ), quantised vectors (N, C)."""
        if f.shape[-2:] != tuple(sizes[-1]):
            raise InputError(
                f"the last scale {sizes[-1]} must be the size of the latents, {tuple(f.shape[-2:])}"
            )
        rest, fhat = f, torch.zeros_like(f)
        for scale, size in enumerate(sizes):
            last = scale == len(sizes) - 1
            z = rest if last else F.interpolate(rest, size=size, mode="area")
            vectors = z.permute(0, 2, 3, 1).reshape(-1, f.shape[1])
            with torch.no_grad():
                ids = self.nearest(vectors).view(len(f), -1)
            h = self.contribution(self.embed(ids), scale, sizes)
            fhat, rest = fhat + h, rest - h.detach()
            yield ids, fhat, vectors

    def accumulate(self, ids_per_scale: Sequence[Tensor], sizes: Sequence[Size]) -> Iterator[Tensor]:
        """f̂ after each scale, from ids of all scales or of the first ones."""
        fhat: Tensor | None = None
        for scale, ids in enumerate(ids_per_scale):
            h = self.contribution(self.embed(ids), scale, sizes)
            fhat = h if fhat is None else fhat + h
            yield fhat

    def accumulate_growing(self, ids_per_scale: Sequence[Tensor], sizes: Sequence[Size]) -> Tensor:
        """Experimental: f̂ itself grows from grid to grid, nothing is upsampled before φ. The last f̂."""
        fhat: Tensor | None = None
        for scale, (ids, size) in enumerate(zip(ids_per_scale, sizes, strict=True)):
            h = self.smooth(_to_grid(self.embed(ids), size), scale, len(sizes))
            fhat = h if fhat is None else F.interpolate(fhat, size=size, mode="bicubic") + h
        return fhat

    def generator_inputs(self, ids_per_scale: Sequence[Tensor], sizes: Sequence[Size]) -> Tensor:
        """Teacher-forcing input of a next-scale generator: (B, L − L_0, C), one block per scale but the
        first."""
        fhats = self.accumulate(list(ids_per_scale)[:-1], sizes)
        blocks = [self.next_input(fhat, size) for fhat, size in zip(fhats, sizes[1:], strict=True)]
        if not blocks:
            return self.embedding.weight.new_zeros(len(ids_per_scale[0]), 0, self.embedding.embedding_dim)
        return torch.cat(blocks, dim=1)


def _to_grid(h_BLC: Tensor, size: Size) -> Tensor:
    return h_BLC.transpose(1, 2).reshape(h_BLC.shape[0], -1, *size)
