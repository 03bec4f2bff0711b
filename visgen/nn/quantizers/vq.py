"""Vector quantizer of one scale (VQGAN; LlamaGen, arXiv 2406.06525, with codes of unit length)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.nn.precision import KeepFloat32

TEMPERATURE = 0.01  # of the soft assignments in the entropy term


@dataclass(frozen=True, eq=False)
class VectorQuantization:
    """What the training pass yields.

    Attributes:
        ids: int64 (B, h·w).
        fhat: (B, C, h, w) codes, with gradients to the codebook.
        loss: codebook + commitment + entropy terms.
        terms: the three by name.
        residuals: (N, C) the vectors that were quantised, for restarts.
    """

    ids: Tensor
    fhat: Tensor
    loss: Tensor
    terms: dict[str, Tensor]
    residuals: Tensor


class VectorQuantizer(KeepFloat32):
    """Nearest code of each vector; everything runs in float32.

    Args:
        codebook_size: V.
        code_dim: C.
        normalize: vectors and codes are scaled to unit length, both when quantising and when looking up.
        beta: weight of the commitment term.
        entropy_ratio: weight of the entropy term, which asks for sure assignments to all codes; 0 = none.
    """

    def __init__(
        self,
        codebook_size: int,
        code_dim: int,
        normalize: bool = True,
        beta: float = 0.25,
        entropy_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        self.normalize, self.beta, self.entropy_ratio = normalize, beta, entropy_ratio
        self.embedding = nn.Embedding(codebook_size, code_dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / codebook_size, 1.0 / codebook_size)
        if normalize:
            self.embedding.weight.data = F.normalize(self.embedding.weight.data, dim=-1)

    @property
    def codes(self) -> Tensor:
        """Code vectors (V, C) as they are looked up; stored ones need not have unit length."""
        codes = self.embedding.weight
        return F.normalize(codes, dim=-1) if self.normalize else codes

    def embed(self, ids: Tensor) -> Tensor:
        """Code vectors (…, C) of ids."""
        codes = self.embedding(ids)
        return F.normalize(codes, dim=-1) if self.normalize else codes

    def prepare(self, f_BCHW: Tensor) -> Tensor:
        """What is quantised: the feature in float32, of unit length where codes are."""
        f = f_BCHW.float()
        return F.normalize(f, dim=1) if self.normalize else f

    def distances(self, vectors_NC: Tensor) -> Tensor:
        """|z|² + |e|² − 2 z·e, (N, V); ties fall as in the official code, which has the same formula."""
        codes = self.codes
        lengths = vectors_NC.square().sum(1, keepdim=True) + codes.square().sum(1)
        return lengths.addmm(vectors_NC, codes.T, alpha=-2)

    def nearest(self, vectors_NC: Tensor) -> Tensor:
        """Id of the nearest code of each prepared vector, int64 (N,)."""
        return self.distances(vectors_NC).argmin(dim=-1)

    @torch.no_grad()
    def encode(self, f_BCHW: Tensor) -> Tensor:
        """Ids (B, h·w) of a feature, raster order."""
        with torch.autocast(f_BCHW.device.type, enabled=False):
            vectors = _rows(self.prepare(f_BCHW))
            return self.nearest(vectors).view(len(f_BCHW), -1)

    def forward(self, f_BCHW: Tensor) -> VectorQuantization:
        """Training pass: mse(sg z, e) + β mse(z, sg e) + ratio · entropy term."""
        with torch.autocast(f_BCHW.device.type, enabled=False):
            z = self.prepare(f_BCHW)
            vectors = _rows(z)
            distances = self.distances(vectors if self.entropy_ratio else vectors.detach())
            ids = distances.detach().argmin(dim=-1)
            b, c, h, w = z.shape
            fhat = self.embed(ids).view(b, h, w, c).permute(0, 3, 1, 2)
            terms = {
                "codebook": F.mse_loss(fhat, z.detach()),
                "commitment": self.beta * F.mse_loss(z, fhat.detach()),
                "entropy": self._entropy_term(distances),
            }
        return VectorQuantization(ids.view(b, -1), fhat, sum(terms.values()), terms, vectors)  # type: ignore[arg-type]

    def _entropy_term(self, distances_NV: Tensor) -> Tensor:
        if not self.entropy_ratio:
            return distances_NV.new_zeros(())
        return self.entropy_ratio * assignment_entropy(distances_NV)


def assignment_entropy(distances_NV: Tensor) -> Tensor:
    """Mean entropy of soft assignments less the entropy of their mean: low where each is sure and all codes
    are used."""
    affinity = -distances_NV / TEMPERATURE
    law = affinity.softmax(dim=-1)
    mean = law.mean(dim=0)
    of_mean = -(mean * (mean + 1e-5).log()).sum()
    of_each = -(law * (affinity + 1e-5).log_softmax(dim=-1)).sum(dim=-1).mean()
    return of_each - of_mean


def _rows(z_BCHW: Tensor) -> Tensor:
    return z_BCHW.permute(0, 2, 3, 1).reshape(-1, z_BCHW.shape[1])
