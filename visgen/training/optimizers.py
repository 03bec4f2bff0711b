"""AdamW, and Muon beside it for matrices, behind one small wrapper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.training.muon import Muon
from visgen.training.objective import Objective
from visgen.training.recipe import OptimizerSpec


class Optimizers:
    """Several optimizers that step together; each group's rate is its `peak_lr` times the schedule's
    factor."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        for group in self._groups():
            group["peak_lr"] = group["lr"]

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, each once."""
        return [parameter for group in self._groups() for parameter in group["params"]]

    def set_factor(self, factor: float) -> None:
        """Set every rate to `factor` times its peak."""
        for group in self._groups():
            group["lr"] = group["peak_lr"] * factor

    def clip(self, max_norm: float | None) -> Tensor:
        """Clip the gradients together (None = leave them) and return their norm before, a scalar tensor."""
        return nn.utils.clip_grad_norm_(self.parameters, float("inf") if max_norm is None else max_norm)

    def step(self) -> None:
        """Step all, then drop the gradients."""
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """One state per optimizer."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Load what `state_dict` gave."""
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)

    def _groups(self) -> Iterable[dict[str, Any]]:
        return (group for optimizer in self.optimizers for group in optimizer.param_groups)


def build_optimizers(objective: Objective, spec: OptimizerSpec) -> Optimizers:
    """Optimizers of everything the objective trains, apart from its adversary.

    Raises:
        InputError: nothing to train, or Muon asked of a model without matrices.
    """
    named = objective.trained()
    if not named:
        raise InputError(f"objective {type(objective).__name__} has no parameters that ask for gradients")
    use_muon = spec.name == "muon"
    muon = [p for n, p in named if use_muon and p.ndim == 2 and objective.matrices(n, p)]
    taken = {id(p) for p in muon}
    rest = [(n, p) for n, p in named if id(p) not in taken]
    groups = [
        {"params": [p for n, p in rest if not objective.no_decay(n, p)], "weight_decay": spec.weight_decay},
        {"params": [p for n, p in rest if objective.no_decay(n, p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    adamw = [_adamw(groups, spec.lr, spec.betas, spec.eps)] if groups else []
    return Optimizers(adamw + ([_muon(muon, spec)] if use_muon else []))


def build_adversary_optimizer(adversary: nn.Module, spec: OptimizerSpec) -> Optimizers:
    """AdamW of a discriminator, without weight decay."""
    groups = [{"params": list(adversary.parameters()), "weight_decay": 0.0}]
    return Optimizers([_adamw(groups, spec.adversary_lr or spec.lr, spec.adversary_betas, spec.eps)])


def _adamw(
    groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    device = groups[0]["params"][0].device.type
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=device in ("cpu", "cuda"))


def _muon(matrices: list[Tensor], spec: OptimizerSpec) -> torch.optim.Optimizer:
    if not matrices:
        raise InputError("optimizer.name='muon' finds no matrices in this model; use adamw")
    decay = spec.weight_decay if spec.muon_weight_decay is None else spec.muon_weight_decay
    return Muon(matrices, spec.muon_lr, spec.muon_momentum, decay)
