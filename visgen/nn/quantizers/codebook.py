"""Codebook health: usage, perplexity, and the restart of codes that died."""

from __future__ import annotations

import torch
from torch import Tensor


def code_counts(ids: Tensor, codebook_size: int) -> Tensor:
    """How often each code occurs, float32 (V,)."""
    return torch.bincount(ids.flatten(), minlength=codebook_size).float()


def average_counts(counts: Tensor, ids: Tensor, decay: float) -> None:
    """Move counts (V,), in place, towards how often the codes occur in `ids`; 1 is uniform.

    `decay` is what is left of the old counts.
    """
    new = code_counts(ids, len(counts))
    counts.mul_(decay).add_(new, alpha=float((1 - decay) * len(counts) / new.sum()))


def perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) of the code law, in [1, V]; V when all codes are equally used."""
    law = counts / counts.sum().clamp_min(1e-12)
    return torch.exp(-(law * law.clamp_min(1e-12).log()).sum())


def usage(counts: Tensor, margin: float = 0.03, uniform: float | None = None) -> Tensor:
    """Fraction of codes used at least `margin` times as often as under a uniform law.

    `uniform` is a code's count under that law, when `counts` (moving averages, say) do not add up to the
    truth.
    """
    expected = counts.sum() / len(counts) if uniform is None else uniform
    return (counts >= margin * expected).float().mean()


@torch.no_grad()
def restart_dead_codes(
    codebook: Tensor, counts: Tensor, vectors: Tensor, generator: torch.Generator, margin: float = 0.03
) -> int:
    """Overwrite, in place, the codes used less than `margin` times uniform with random rows of `vectors`.

    `vectors` is (N, D). Returns how many codes were overwritten. Their counts become the mean: time to live.
    """
    dead = (counts < margin * counts.sum() / len(counts)).nonzero().flatten()
    if len(dead) == 0 or len(vectors) == 0:
        return 0
    rows = torch.randint(len(vectors), (len(dead),), generator=generator).to(vectors.device)
    codebook[dead] = vectors[rows].to(codebook.dtype)
    counts[dead] = counts.mean()
    return len(dead)
