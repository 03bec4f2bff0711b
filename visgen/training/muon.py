"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum whose matrices are made
nearly orthogonal.

torch has one from 2.9 on. It works in bfloat16, which takes 60 times as long as float32 on CPUs without
instructions for it, and one matrix at a time; this one works in float32 on a CPU, and on all matrices of one
shape together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, steepest at zero
ITERATIONS = 5
EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Rates are those of AdamW: an update of a matrix (A, B) is scaled by 0.2 sqrt(max(A, B)), which gives it
    the root mean square that AdamW's has (arXiv 2502.16982).

    Args:
        params: matrices.
        lr, momentum, weight_decay: as usual.

    Raises:
        ValueError: a parameter that is no matrix.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        shapes = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim != 2]
        if shapes:
            raise ValueError(f"Muon takes matrices only, not a parameter of shape {shapes[0]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step over all matrices with gradients."""
        assert closure is None, "the loop computes gradients itself"
        for group in self.param_groups:
            kinds: dict[tuple[Any, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    kinds.setdefault((p.shape, p.device, p.dtype), []).append(p)
            for matrices in kinds.values():
                self._step(matrices, group)

    def _step(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        momentum, lr = group["momentum"], group["lr"]
        updates = []
        for p in matrices:
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p)
            buffer = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
            updates.append(p.grad.lerp(buffer, momentum))
        scale = lr * 0.2 * math.sqrt(max(matrices[0].shape))
        for p, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
            p.mul_(1 - lr * group["weight_decay"]).sub_(update, alpha=scale)


def orthogonal(matrices_NAB: Tensor) -> Tensor:
    """Matrices of the same singular vectors and dtype, with singular values near 1 (about 0.5 to 1.5)."""
    x = matrices_NAB.float() if matrices_NAB.device.type == "cpu" else matrices_NAB.bfloat16()
    wide = x if x.shape[1] <= x.shape[2] else x.mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp_min(EPS)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide if x.shape[1] <= x.shape[2] else wide.mT).to(matrices_NAB.dtype)
