"""Laws over token ids: temperature, top-k, top-p. Pure functions of logits; `None` is the only "off"."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.guidance import guidance_at


@dataclass(frozen=True)
class TokenSampling:
    """How token ids are drawn. `None` switches a filter off.

    Args:
        temperature: > 0; logits are divided by it.
        top_k: keep the k largest logits (ties with the k-th stay), before top-p.
        top_p: in (0, 1]; keep the smallest set of ids whose probability exceeds it.
        guidance_scale: s in `u + s (c − u)`; 1 is off.
        guidance_schedule: "constant" or "linear" (1 at the first step, s at the last).
        smooth: VAR's `more_smooth`: embed a Gumbel-softmax mixture of codes instead of the drawn one.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance_scale: float = 1.0
    guidance_schedule: str = "constant"
    smooth: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"temperature={self.temperature} must be above 0; top_k=1 is greedy")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k={self.top_k} must be at least 1, or None to switch it off")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p} must be in (0, 1], or None to switch it off")
        if not abs(self.guidance_scale) < float("inf"):
            raise InputError(
                f"guidance_scale={self.guidance_scale} must be a finite number; 1 switches guidance off"
            )
        guidance_at(1.0, self.guidance_schedule, 0.0)  # raises on an unknown schedule


def filter_logits(logits: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Logits (…, V) with the removed ids at -inf, top-k first. A new tensor; the input is left as it is."""
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p is not None and top_p < 1:
        logits = _filter_top_p(logits, top_p, top_k)
    return logits


def _filter_top_p(logits: Tensor, top_p: float, top_k: int | None) -> Tensor:
    """Ascending cumulative mass ≤ 1 − top_p goes; the largest always stays.

    Only the survivors of top-k are sorted. The sort is stable: of equal logits the first ids go first.
    """
    ids = torch.arange(logits.shape[-1], device=logits.device).expand_as(logits)
    if top_k is not None:
        count = int(torch.isfinite(logits).sum(-1).max())
        ids = logits.topk(count, dim=-1).indices.sort(dim=-1).values
    ascending, order = logits.gather(-1, ids).sort(dim=-1, stable=True)
    removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    removed[..., -1] = False
    removed = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids.gather(-1, order), removed)
    return logits.masked_fill(removed, -torch.inf)


def token_law(logits: Tensor, sampling: TokenSampling) -> Tensor:
    """Filtered logits (…, V) in float32 after temperature, top-k and top-p; softmax of them is the law."""
    return filter_logits(logits.float() / sampling.temperature, sampling.top_k, sampling.top_p)
