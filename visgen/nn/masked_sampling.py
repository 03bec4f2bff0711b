"""Masked sampling as in TiTok's MaskGIT generators (`bytedance/1d-tokenizer`): Gumbel noise that fades to 0
both decides the ids and the order in which they are kept, by their raw logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.nn.masking import MaskedSampling, masked_again
from visgen.nn.noise import Noise
from visgen.nn.sampling import token_law

LEAST = 1e-20  # both logarithms of the Gumbel noise start from here


@dataclass(frozen=True)
class MaskGITSampling(MaskedSampling):
    """`MaskedSampling` whose `choice_temperature` also draws the ids: 0 takes the likeliest ones.

    Args:
        annealing: divide logits by 0.5 + 0.8 (1 − r), r the share of steps that are done; the published
            recipes for ImageNet do.
    """

    choice_temperature: float = 4.5
    annealing: bool = False


def arccos_share(ratio: float) -> float:
    """MaskGIT's share of tokens that are masked when a share `ratio` of the steps is done."""
    return math.acos(ratio) / (math.pi * 0.5)


def draw_maskgit(
    logits_BLV: Tensor, ids_BL: Tensor, mask_id: int, noise: Noise, sampling: MaskGITSampling, ratio: float
) -> tuple[Tensor, Tensor]:
    """Every masked id drawn, and how sure each token is, +inf for the others.

    Args:
        logits_BLV: guided.
        ids_BL: `mask_id` where an id is to be drawn.
        ratio: share of steps that are done after this one.
    """
    heat = sampling.choice_temperature * (1 - ratio)
    if sampling.annealing:
        logits_BLV = logits_BLV / (0.5 + 0.8 * (1 - ratio))
    law = token_law(logits_BLV, sampling)
    masked = ids_BL == mask_id
    drawn = torch.where(masked, (law + heat * gumbel(noise, law)).argmax(dim=-1), ids_BL)
    sure = law.gather(-1, drawn[..., None]).squeeze(-1).masked_fill(~masked, torch.inf)
    return drawn, sure + heat * gumbel(noise, sure)


def remasked(drawn_BL: Tensor, sure_BL: Tensor, mask_id: int, ratio: float) -> Tensor:
    """Ids for the next step: the least sure ones masked again.

    How many follows from how many were masked, row by row; the official code counts in the first row and
    takes that for all, which is the same except after ties.
    """
    return drawn_BL.masked_fill(masked_again(sure_BL, ratio, arccos_share), mask_id)


def gumbel(noise: Noise, like: Tensor) -> Tensor:
    """Gumbel(0, 1) draws of a shape, float32."""
    uniform = noise.uniform(*like.shape, device=like.device)
    return -(-uniform.clamp_min(LEAST).log()).clamp_min(LEAST).log()
