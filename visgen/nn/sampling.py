"""Laws over token ids: temperature, top-k, top-p. Pure functions of logits; `None` is the only "off"."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.guidance import guidance_at, step_position

# Beyond them float32 logits overflow, and what is drawn is no longer of the model.
LEAST_TEMPERATURE, LARGEST_GUIDANCE = 1e-6, 1e6


@dataclass(frozen=True)
class TokenSampling:
    """How token ids are drawn. `None` switches a filter off.

    Args:
        temperature: 1e-6 or more; logits are divided by it.
        top_k: keep the k largest logits (ties with the k-th stay), before top-p.
        top_p: in (0, 1]; keep the smallest set of ids whose probability exceeds it.
        guidance_scale: s in `u + s (c − u)`, at most 1e6 in size; 1 is off.
        guidance_schedule: a name of `visgen.nn.guidance.SCHEDULES`, such as "constant" or "linear" (1 at the
            first step, s at the last).
        guidance_steps: next-token models guide the first so many tokens only; None = all.
        smooth: VAR's `more_smooth`: embed a Gumbel-softmax mixture of codes instead of the drawn one.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance_scale: float = 1.0
    guidance_schedule: str = "constant"
    guidance_steps: int | None = None
    smooth: bool = False

    def __post_init__(self) -> None:
        if not LEAST_TEMPERATURE <= self.temperature < float("inf"):
            raise InputError(
                f"temperature={self.temperature} must be above 0 ({LEAST_TEMPERATURE} or more) and finite; "
                "top_k=1 is greedy"
            )
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise InputError(
                f"top_k={self.top_k!r} must be an integer of at least 1, or None to switch it off"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p={self.top_p} must be in (0, 1], or None to switch it off")
        if not abs(self.guidance_scale) <= LARGEST_GUIDANCE:
            raise InputError(
                f"guidance_scale={self.guidance_scale} must be a finite number, at most {LARGEST_GUIDANCE:g} "
                "in size; 1 switches guidance off"
            )
        guidance_at(1.0, self.guidance_schedule, 0.0)  # raises on an unknown schedule
        if self.guidance_steps is not None and self.guidance_steps < 0:
            raise InputError(f"guidance_steps={self.guidance_steps} must be 0 or more, or None for all")


def guidance_table(sampling: TokenSampling, length: int) -> Tensor:
    """Guidance scale of each of `length` steps, float32 (L,); 1 = off."""
    scale, schedule = sampling.guidance_scale, sampling.guidance_schedule
    positions = [step_position(schedule, index, length) for index in range(length)]
    table = torch.tensor([guidance_at(scale, schedule, position) for position in positions])
    if sampling.guidance_steps is not None:
        table[sampling.guidance_steps :] = 1.0
    return table


def filter_logits(
    logits: Tensor, top_k: int | None = None, top_p: float | None = None, *, keep_first: bool = False
) -> Tensor:
    """Logits (…, V) with the removed ids at -inf, top-k first; the input is left as it is.

    Top-p removes the smallest ids whose mass is at most 1 − top_p together; the largest always stays, and of
    equal logits the first ids go first (VAR), or the last with `keep_first` (LlamaGen, which sorts the other
    way round).
    """
    size = logits.shape[-1]
    top_k = None if top_k is None or top_k >= size else top_k
    top_p = None if top_p is None or top_p >= 1 else top_p
    if top_k is None and top_p is None:
        return logits
    largest = logits.topk(top_k or size, dim=-1, sorted=top_p is not None).values
    if top_p is None:
        return logits.masked_fill(logits < largest.amin(dim=-1, keepdim=True), -torch.inf)
    bound, tied = _top_p_bound(logits, largest.flip(-1), top_p)
    filtered = logits.masked_fill(logits < bound, -torch.inf)
    if tied.any():
        filtered[tied] = _filter_stably(logits[tied], top_k, top_p, keep_first)
    return filtered


def _top_p_bound(logits: Tensor, ascending: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The smallest logit that stays (…, 1), and the rows (…) where it does not tell: some of its equals go,
    or more ids than were asked for are as large as the k-th."""
    removed = _removed_by_top_p(ascending, top_p).sum(dim=-1, keepdim=True)
    bound = ascending.gather(-1, removed)
    split = (removed > 0) & (ascending.gather(-1, (removed - 1).clamp_min(0)) == bound)
    more = (logits >= ascending[..., :1]).sum(dim=-1) > ascending.shape[-1]
    return bound, split.squeeze(-1) | more


def _removed_by_top_p(ascending: Tensor, top_p: float) -> Tensor:
    removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    removed[..., -1] = False
    return removed


def _filter_stably(logits: Tensor, top_k: int | None, top_p: float, keep_first: bool) -> Tensor:
    """The law by definition, by a stable sort of all ids; needed where equal logits meet a bound."""
    if top_k is not None:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if keep_first:
        descending, order = logits.sort(dim=-1, stable=True, descending=True)
        ascending, order = descending.flip(-1), order.flip(-1)
    else:
        ascending, order = logits.sort(dim=-1, stable=True)
    removed = _removed_by_top_p(ascending, top_p)
    return logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), -torch.inf)


def token_law(logits: Tensor, sampling: TokenSampling) -> Tensor:
    """Filtered logits (…, V) in float32 after temperature, top-k and top-p; softmax of them is the law."""
    return filter_logits(logits.float() / sampling.temperature, sampling.top_k, sampling.top_p)
