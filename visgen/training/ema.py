"""Moving average of a model's weights, kept as a second model so that it can sample and be saved."""

from __future__ import annotations

import copy

import torch
from torch import nn

from visgen.training.recipe import EmaSpec


class Ema:
    """A float32 copy of `model` that follows it; buffers are copied as they are.

    Args:
        model: the model being trained, with float32 weights.
        spec: decay and warm-up; None keeps no copy, and `model` itself is what `Ema.model` gives.
    """

    def __init__(self, model: nn.Module, spec: EmaSpec | None) -> None:
        self.spec = spec
        self.source = model
        self.model = model if spec is None else copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` (0-based)."""
        if self.spec is None:
            return
        weight = 1 - ema_decay(self.spec, step)
        torch._foreach_lerp_(list(self.model.parameters()), list(self.source.parameters()), weight)
        if buffers := list(self.model.buffers()):
            torch._foreach_copy_(buffers, list(self.source.buffers()))


def ema_decay(spec: EmaSpec, step: int) -> float:
    """Decay of a step (0-based)."""
    return min(spec.decay, (1 + step) / (10 + step)) if spec.warmup else spec.decay
