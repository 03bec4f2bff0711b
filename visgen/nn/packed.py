"""Linear layers of a few rows on a CPU, with weights in oneDNN's blocked layout.

Decoding reads every weight for a few rows at a time, and torch's kernels for plain weights do not keep up
with the memory. All layers of LlamaGen-B on one core of an EPYC with avx512_bf16, milliseconds:

    rows               1    2    4    8    16   32
    float32, plain    29   54   53   59    76  114
    float32, blocked  24   33   21   29    39   71
    bfloat16, plain   22   22   25   30    35   50
    bfloat16, blocked 14   16   12   16    22   36

So fewer rows than four are filled up to four. Results differ from those of plain layers in the last bits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

FEWEST_ROWS = 4
SMALLEST_WEIGHT = 2**19  # elements; below, a call costs more than it saves
LARGEST_TOTAL = 2**32  # bytes; of larger models a second copy of the weights is too much to ask
_wanted: ContextVar[bool] = ContextVar("visgen_packed_weights", default=True)


@contextmanager
def packed_weights(wanted: bool) -> Iterator[None]:
    """Inside the block, `packed` packs or leaves everything as it is."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


class PackedLinear(nn.Module):
    """A linear layer whose weight is a blocked copy; no gradients. Belongs to one call: it has a buffer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self._multiply = torch.ops.mkldnn._linear_pointwise.default  # resolved once: 5 µs of a call
        self.bias = linear.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), FEWEST_ROWS)
        self._rows = weight.new_zeros(
            FEWEST_ROWS, weight.shape[1]
        )  # what lies behind the given rows is not read

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[:-1].numel()
        if count >= FEWEST_ROWS:
            return self._apply_to(x)
        self._rows[:count] = x.reshape(count, -1)
        return self._apply_to(self._rows)[:count].view(*x.shape[:-1], -1)

    def _apply_to(self, x: Tensor) -> Tensor:
        return self._multiply(x, self._weight, self.bias, "none", [], "")


def packed(module: nn.Module) -> nn.Module:
    """The module with blocked copies of its large linear layers; all else is shared, and it is not changed.

    The module itself where nothing is to be gained or packing is not possible: another device than a CPU,
    another dtype, gradients, a torch without oneDNN, compiled parts, or weights above `LARGEST_TOTAL`.
    """
    large = [one.weight for one in module.modules() if _is_large(one)]
    if not large or not all(_can_pack(weight) for weight in large):
        return module
    if sum(weight.numel() * weight.element_size() for weight in large) > LARGEST_TOTAL:
        return module
    compiled = any(hasattr(one, "_orig_mod") for one in module.modules())
    return module if compiled else _copy(module)


def _is_large(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.numel() >= SMALLEST_WEIGHT


def _can_pack(weight: Tensor) -> bool:
    known = weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    there = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return _wanted.get() and there and known and not torch.is_grad_enabled()


def _copy(module: nn.Module) -> nn.Module:
    if _is_large(module):
        assert isinstance(module, nn.Linear)
        return PackedLinear(module)
    copied = copy.copy(module)
    copied._modules = {
        name: None if child is None else _copy(child) for name, child in module._modules.items()
    }
    return copied
