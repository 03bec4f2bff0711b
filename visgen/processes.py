"""The few collective operations of training and evaluation. One process makes each of them a no-op.

Gradients are averaged in one flat reduction instead of DistributedDataParallel: an objective has two entry
points (its loss and its adversary's), frozen parts and unused parameters, which a single wrapped `forward`
does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch import distributed as dist


class Processes:
    """This process among the others of `accelerate launch` or `torchrun`; alone without them."""

    def __init__(self) -> None:
        # Told so, accelerate joins processes on CPUs; else it takes each for alone.
        self._accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all."""
        self._accelerator.wait_for_everyone()

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their mean over processes; a parameter unused on all of them gets zeros."""
        if self.count == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.count).split([gradient.numel() for gradient in gradients])
        for parameter, gradient, part in zip(parameters, gradients, parts, strict=True):
            parameter.grad = part.view_as(gradient)

    @torch.no_grad()
    def synchronize(self, module: nn.Module) -> None:
        """Copy trained parameters and buffers of the first process to the others, one message per type."""
        if self.count == 1:
            return
        tensors = [p for p in module.parameters() if p.requires_grad] + list(module.buffers())
        for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            dist.broadcast(flat, src=0)
            for tensor, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, values: list) -> list:
        """Concatenate the lists of all processes, in order."""
        return values if self.count == 1 else gather_object(values)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on some process."""
        return flag if self.count == 1 else any(gather_object([flag]))
