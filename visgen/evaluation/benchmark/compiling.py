"""`torch.compile` for the blocks of a generator, and how far its logits then are from the eager ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from visgen.generators.base import GenerationRequest, GenerationStep

VARIANTS = 64  # a scale of one position, the first layer and the like are compiled apart
Step = tuple[Tensor, Tensor]  # ids and logits of a scale


@contextmanager
def compiled_blocks(generator: Any) -> Iterator[None]:
    """Inside the block, the generator's transformer blocks are compiled, for shapes that change from scale to
    scale; the first image waits for the compiler (a C++ one on a CPU).

    More variants than `VARIANTS` raise instead of going on uncompiled.
    """
    blocks = generator.blocks
    torch.compiler.reset()
    try:
        generator.blocks = nn.ModuleList(
            torch.compile(block, dynamic=True, fullgraph=True) for block in blocks
        )
        with torch._dynamo.config.patch({_recompile_limit(): VARIANTS}):
            yield
    finally:
        generator.blocks = blocks
        torch.compiler.reset()


def _recompile_limit() -> str:
    """Name of the setting, which torch 2.6 knew by another one."""
    return "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"


def steps_of(generator: Any, request: GenerationRequest, quantizer: Any) -> list[Step]:
    """Ids and guided logits of each scale of one generation, on the CPU."""
    steps: list[Step] = []

    def keep(step: GenerationStep) -> None:
        assert step.ids is not None and step.logits is not None  # a next-scale generator has both
        steps.append((step.ids.cpu(), step.logits.cpu()))

    generator.generate(request, quantizer=quantizer, on_step=keep)
    return steps


def largest_difference(steps: Sequence[Step], others: Sequence[Step]) -> float:
    """Largest difference of logits, up to the first scale whose ids differ: later ones saw other inputs."""
    largest = 0.0
    for (ids, logits), (other_ids, other_logits) in zip(steps, others, strict=True):
        largest = max(largest, float((logits - other_logits).abs().max()))
        if not torch.equal(ids, other_ids):
            break
    return largest
