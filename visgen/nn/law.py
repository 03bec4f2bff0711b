"""The law that tokens of a sequence are drawn from: temperature, top-k, top-p, and what the format forces."""

from __future__ import annotations

import torch
from torch import Tensor

from visgen.nn.sampling import TokenSampling, token_law


class SequenceLaw:
    """Guided logits and positions → probabilities; a pure function.

    Args:
        sampling: temperature and filters.
        forced: int64 (L,) or (B, L, K), the only id allowed at each position, -1 = free; None = all free.
            Line ends of a format, or tokens that are kept in editing.
    """

    def __init__(self, sampling: TokenSampling, forced: Tensor | None = None) -> None:
        self.sampling = sampling
        self._forced = None if forced is None else forced if forced.ndim == 3 else forced[None, :, None]

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Probabilities (B, N, K, V) float32 of the tokens at `positions` (B, N)."""
        law = token_law(logits, self.sampling).softmax(dim=-1)
        if self._forced is None:
            return law
        forced = self.forced(positions)[..., None]  # (B, N, K or 1, 1)
        one = torch.zeros_like(law).scatter_(-1, forced.clamp_min(0).expand(*law.shape[:-1], 1), 1.0)
        return torch.where(forced >= 0, one, law)

    def forced(self, positions: Tensor) -> Tensor:
        """(B, N, K or 1) the id forced at each position, or -1; beyond the end, that of the last one."""
        if self._forced is None:
            return torch.full_like(positions, -1)[..., None]
        table = self._forced.expand(len(positions), -1, -1)
        rows = torch.arange(len(positions), device=table.device)[:, None]
        return table[rows, positions.clamp(0, table.shape[1] - 1)]
