"""Masked sampling as in ELM (arXiv 2410.16257): draw all masked tokens, mask the least sure ones again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling, token_law


@dataclass(frozen=True)
class MaskedSampling(TokenSampling):
    """`TokenSampling`, and how often tokens are looked at again.

    Args:
        num_inference_steps: passes, 1 or more.
        choice_temperature: of the Gumbel noise on the order in which tokens are kept; fades to 0.
    """

    num_inference_steps: int = 16
    choice_temperature: float = 4.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_inference_steps < 1 or not 0 <= self.choice_temperature < math.inf:
            raise InputError(
                f"num_inference_steps={self.num_inference_steps} must be 1 or more and "
                f"choice_temperature={self.choice_temperature} a finite number from 0"
            )


def draw_masked(
    logits: Tensor, ids: Tensor, mask_id: int, noise: Noise, sampling: TokenSampling
) -> tuple[Tensor, Tensor]:
    """Ids (B, L, K) with every masked one drawn, and ln p of what was drawn, +inf for known ones."""
    law = token_law(logits, sampling).log_softmax(dim=-1)
    drawn = noise.categorical(law.exp())
    sure = law.gather(-1, drawn[..., None]).squeeze(-1)
    masked = ids == mask_id
    return torch.where(masked, drawn, ids), sure.masked_fill(~masked, torch.inf)


def cosine_share(ratio: float) -> float:
    """ELM's share of tokens that are masked again when a share `ratio` of the steps is done."""
    return math.cos(math.pi / 2 * ratio)


def masked_again(sure_BL: Tensor, ratio: float, share: Callable[[float], float] = cosine_share) -> Tensor:
    """The least sure positions (B, L): a share `share(ratio)`, at least one, fewer than were masked."""
    masked = sure_BL.isfinite().sum(dim=1)
    wanted = int(sure_BL.shape[1] * share(ratio))
    count = (masked - 1).clamp(max=wanted).clamp_min(1)
    bound = sure_BL.sort(dim=1).values.gather(1, count[:, None] - 1)
    return (sure_BL <= bound) & sure_BL.isfinite()
