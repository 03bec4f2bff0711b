"""Hooks and instance overrides that are taken back in one go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn


class Undo(ExitStack):
    """Collects what was changed on a model; leaving it restores the model, whatever was raised."""

    def before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, kwargs)` before the module's forward."""
        self.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def after(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, kwargs, output)` after the module's forward."""
        self.callback(module.register_forward_hook(hook, with_kwargs=True).remove)

    def override(self, owner: Any, name: str, value: Any) -> None:
        """Let `owner.name` be `value`, on this instance alone."""
        absent = object()
        before = vars(owner).get(name, absent)
        object.__setattr__(owner, name, value)
        if before is absent:
            self.callback(object.__delattr__, owner, name)
        else:
            self.callback(object.__setattr__, owner, name, before)
