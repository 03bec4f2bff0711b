"""Micro-batches: how the rows of a call are cut, and why an image does not depend on its neighbours.

Float rounding depends on the shape of a batch. Ids survive that in float32; pixels do not, so images are
encoded and decoded at one fixed shape: alone on a CPU, `GPU_ROWS` at a time elsewhere (the last ones padded).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from visgen.nn.noise import Noise
from visgen.tokenizers.tokens import ImageTokens

GPU_ROWS = 4  # more would make a single image wait longer for the padding beside it


def micro_batches(count: int, batch_size: int, fixed: bool = False) -> Iterator[tuple[range, list[int]]]:
    """(rows, index) of each micro-batch: whose images, and what is computed; `fixed` repeats the last row."""
    for start in range(0, count, batch_size):
        rows = range(start, min(start + batch_size, count))
        padding = [rows[-1]] * (batch_size - len(rows)) if fixed else []
        yield rows, [*rows, *padding]


def fixed_shape(
    function: Callable[..., Any], values: Any, device: torch.device, noise: Noise | None = None
) -> Any:
    """`function` of a batch (tensor or `ImageTokens`), at one fixed batch shape; the result is on the CPU.

    With `noise`, a row per image, it is called with the values and the noise of the same images.
    """
    rows = 1 if device.type == "cpu" else GPU_ROWS
    parts = []
    for real, index in micro_batches(len(values), rows, fixed=True):
        arguments = (values[index],) if noise is None else (values[index], noise.rows(index))
        parts.append(function(*arguments)[: len(real)].to("cpu"))
    return ImageTokens.cat(parts) if isinstance(parts[0], ImageTokens) else torch.cat(parts)


def wake(module: nn.Module | None) -> None:
    """Bring an offloaded module to its device; offload hooks sit on `forward`, which we do not call."""
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(module)


def device_of(module: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU for a module without any."""
    tensors: Iterator[Tensor] = (
        tensor for group in (module.parameters(), module.buffers()) for tensor in group
    )
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
