"""Random weights to start training from."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def init_matrices(model: nn.Module, law: Callable[..., Tensor], std: float = 0.02) -> None:
    """Draw the weights of linear layers and embedding tables, in the order of `modules()`; biases are zero.

    Args:
        model: changed in place.
        law: `nn.init.normal_` or `nn.init.trunc_normal_`.
        std: deviation of the law.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            law(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
