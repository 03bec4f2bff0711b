"""What stays in float32 whatever the model is cast to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class KeepFloat32(nn.Module):
    """A module that stays float32 under `.to(bfloat16)`: quantizers, FSQ, rotary tables."""

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        def keep(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            if out.dtype == tensor.dtype or not tensor.is_floating_point():
                return out
            return tensor.to(device=out.device, dtype=torch.float32)

        return super()._apply(keep, recurse)
