"""Acceptance rules of speculative sampling: pure functions of laws, draws and uniforms.

A law is a tensor (…, V) of probabilities, tokens are int64 (…), and every function is batched over the
leading dimensions and works in the dtype of its laws. Notation: p = target law, q = law the draft was drawn
from, [x]+ = max(x, 0). A draft is accepted where `u < ratio`; 0/0 is a rejection; a residual without mass is
p itself.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def probability(law: Tensor, tokens: Tensor) -> Tensor:
    """What laws (…, V) give to tokens (…)."""
    return law.gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)


def one_hot(tokens: Tensor, like: Tensor) -> Tensor:
    """The law (…, V) that is certain of tokens (…), in the dtype of `like` (…, V)."""
    return F.one_hot(tokens.long(), like.shape[-1]).to(like.dtype)


def normalised(weights: Tensor, fallback: Tensor) -> Tensor:
    """Non-negative weights (…, V) over their sum; `fallback` where that is 0."""
    total = weights.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(torch.finfo(total.dtype).tiny), fallback)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """Law of the token after a rejection: [p − q]+, normalised (Leviathan et al. 2023)."""
    return normalised((p - q).clamp_min(0), p)


def without(p: Tensor, tokens: Tensor) -> Tensor:
    """Residual against a deterministic draft: p with tokens (…) removed, normalised; p itself if it had no
    other."""
    return normalised(p.scatter(-1, tokens.long().unsqueeze(-1), 0), p)


def removed(q: Tensor, tokens: Tensor) -> Tensor:
    """Draft law after tokens (…) were drawn without replacement; 0 everywhere when nothing is left."""
    return normalised(q.scatter(-1, tokens.long().unsqueeze(-1), 0), torch.zeros_like(q))


def acceptance(p_token: Tensor, q_token: Tensor) -> Tensor:
    """min(1, p(x) / q(x)); 0/0 is 0."""
    return torch.nan_to_num(p_token / q_token, nan=0.0, posinf=1.0).clamp(max=1)


def overlap(p: Tensor, q: Tensor) -> Tensor:
    """Σ min(p, q) = 1 − total variation: how often the best coupling of the two agrees."""
    return torch.minimum(p, q).sum(dim=-1)


def inverse_cdf(law: Tensor, u: Tensor) -> Tensor:
    """The first id whose cumulative mass exceeds u · total, u (…) in [0, 1)."""
    mass = law.cumsum(dim=-1)
    index = (mass <= (u.to(mass) * mass[..., -1]).unsqueeze(-1)).sum(dim=-1)
    return index.clamp(max=law.shape[-1] - 1)


# ---- one line of drafts


def accepted_run(accepted_BL: Tensor) -> Tensor:
    """(B,) int64: length of the leading run of True."""
    return accepted_BL.long().cumprod(dim=1).sum(dim=1)


def block_weights(p_BLV: Tensor, q_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """Running weights r_0 = 1, r_i = min(1, r_{i−1} p_i(x_i) / q_i(x_i)), (B, L + 1).

    `p_BLV` may hold laws after the drafts too: only the first L are used.
    """
    length = tokens_BL.shape[1]
    ratios = probability(p_BLV[:, :length], tokens_BL) / probability(q_BLV, tokens_BL)
    weights = [torch.ones_like(p_BLV[:, 0, 0])]
    for i in range(length):
        weights.append(torch.nan_to_num(weights[-1] * ratios[:, i], nan=0.0, posinf=1.0).clamp(max=1))
    return torch.stack(weights, dim=1)


def block_thresholds(p_BLV: Tensor, q_BLV: Tensor, weights: Tensor, lengths_B: Tensor) -> Tensor:
    """Thresholds h_i of prefix length i = 1 … L, (B, L): the longest i with u_i < h_i is kept (Sun et al.
    2024).

    h_i = S_i / (S_i + 1 − r_i) with S_i = Σ [r_i p_{i+1} − q_{i+1}]+, and 1 for 0/0; the last draft of a row
    has h = r, and what lies beyond `lengths_B` 0.

    Args:
        p_BLV: (B, L + 1, V) target laws, the one after all drafts included.
        weights: (B, L + 1) of `block_weights`.
        lengths_B: (B,) drafts per row, at most L.
    """
    length = q_BLV.shape[1]
    inner = weights[:, 1:length]  # r_1 … r_{L−1}
    mass = (inner[..., None] * p_BLV[:, 1:length] - q_BLV[:, 1:]).clamp_min(0).sum(dim=-1)
    below = mass + 1 - inner
    thresholds = torch.where(below > 0, mass / below, 1.0)
    thresholds = torch.cat([thresholds, weights[:, -1:]], dim=1)
    index = torch.arange(1, length + 1, device=lengths_B.device)
    thresholds = torch.where(index == lengths_B[:, None], weights[:, 1:], thresholds)
    return torch.where(index <= lengths_B[:, None], thresholds, 0.0)


# ---- several drafts at one position: K-SEQ (SpecTr, Sun et al. 2023)


def kseq_beta(p: Tensor, q: Tensor, rho: Tensor) -> Tensor:
    """β(ρ) = Σ min(q, p / ρ), the chance (…) that one draft is accepted."""
    return torch.minimum(q, p / rho.unsqueeze(-1)).sum(dim=-1)


def kseq_rho(p: Tensor, q: Tensor, drafts: Tensor) -> Tensor:
    """The ρ (…) in [1, k] with 1 − (1 − β(ρ))^k = ρ β(ρ), for k = `drafts` (…) i.i.d. drafts; by bisection.

    The left side is at least the right one at ρ = 1, at most at k. Where both agree on an interval up to
    rounding (p = q), the smallest such ρ.
    """
    drafts = drafts.to(p)
    low, high = torch.ones_like(drafts), drafts.clamp_min(1)
    eps = torch.finfo(p.dtype).eps
    rounding, halvings = 8 * eps, 4 - round(math.log2(eps))  # 27 in float32, 56 in float64
    for _ in range(halvings):
        middle = (low + high) / 2
        beta = kseq_beta(p, q, middle)
        below = 1 - (1 - beta) ** drafts - middle * beta > rounding
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def kseq_residual(p: Tensor, q: Tensor, rho: Tensor, drafts: Tensor) -> Tensor:
    """Law of the token when none of k = `drafts` (…) was accepted: p − min(q, p/ρ) · A/β, normalised."""
    beta = kseq_beta(p, q, rho)
    total = 1 - (1 - beta) ** drafts.to(p)
    scale = torch.nan_to_num(total / beta, nan=0.0).unsqueeze(-1)
    return normalised((p - torch.minimum(q, p / rho.unsqueeze(-1)) * scale).clamp_min(0), p)


def best_acceptance(p: Tensor, q: Tensor, drafts: int) -> Tensor:
    """The largest chance (…) that one of k = `drafts` i.i.d. drafts can be accepted with, by any rule: an
    upper bound for K-SEQ and for recursive rejection with replacement.

    The transport problem of SpecTr by min cut: min over sets S of p(S) + 1 − q(S)^k. As x^k is convex, some
    set {p / q below a threshold} attains it.
    """
    order = torch.nan_to_num(p / q, nan=0.0, posinf=torch.inf).argsort(dim=-1)
    cuts = p.gather(-1, order).cumsum(dim=-1) + 1 - q.gather(-1, order).cumsum(dim=-1) ** drafts
    return cuts.amin(dim=-1).clamp(max=1)  # 1: the empty set


# ---- couplings: a new draft that agrees with the old one as often as may be


def maximal_coupling(old: Tensor, q_old: Tensor, q_new: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Which old drafts (…) stay, bool (…), and the law (…, V) of those that do not.

    x stays where u < min(1, q_new(x) / q_old(x)), else it is redrawn from [q_new − q_old]+: the result has
    law q_new, and agrees with the old draft with probability `overlap(q_old, q_new)`, the best there is.
    """
    keep = u.to(q_new) < acceptance(probability(q_new, old), probability(q_old, old))
    return keep, residual(q_new, q_old)


def race(law: Tensor, exponential: Tensor) -> Tensor:
    """argmax q / E (…): a draw from the law. The same E for two laws is the shared-noise (Gumbel) coupling,
    which agrees with probability (1 − tv) / (1 + tv) or more."""
    return (law / exponential.to(law)).argmax(dim=-1)
