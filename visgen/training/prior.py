"""PRIOR's weights (2505.08971): what a language model without eyes predicts badly is about the image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from visgen.errors import InputError


def token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy (…, T − 1), float32, of every id but the first from the logits before it.

    Args:
        logits: (…, T, V); those at t predict id t + 1.
        ids: int64 (…, T).
    """
    flat = logits[..., :-1, :].reshape(-1, logits.shape[-1]).float()
    losses = F.cross_entropy(flat, ids[..., 1:].reshape(-1), reduction="none")
    return losses.view(ids[..., 1:].shape)


def prior_weights(reference_logits: Tensor, ids: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """Weights (…, T − 1) of the losses of `token_losses`: (1 − p)^alpha, mean 1 over the mask, 0 beyond it.

    Args:
        reference_logits: (…, T, V) of a model that sees the text alone; p is what it gives the true id.
        ids: int64 (…, T).
        mask: bool (…, T − 1), the ids that are learnt.
        alpha: ≥ 0; 0 weighs all alike.

    Raises:
        InputError: a negative alpha.
    """
    if alpha < 0:
        raise InputError(f"alpha={alpha} must be 0 or more")
    law = (-token_losses(reference_logits.detach(), ids)).exp()
    raw = (1 - law).clamp_min(0) ** alpha * mask
    return raw * (mask.sum() / raw.sum().clamp_min(1e-12))


def weighted_mean(losses: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Σ w · loss / number of ids in the mask."""
    return (losses * weights * mask).sum() / mask.sum().clamp_min(1)
