"""Where the time of a generation goes: hooks on the modules that a next-scale generation passes through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from visgen.evaluation.benchmark.flops import block_flops, conv_flops
from visgen.evaluation.benchmark.timing import Timeline

SET_UP, HEAD, SAMPLING, QUANTIZER, DECODER, OUTPUT = (
    "set-up",
    "head",
    "sampling",
    "quantizer and resize",
    "image decoder",
    "output",
)


class Parts:
    """Seconds and FLOPs of the parts of one generation; its transformer passes are "blocks 0", "blocks 1", …

    Args:
        pipe: a pipeline of a `VARTransformer` and a `VARTokenizer`.
        timeline: where the seconds go.
    """

    def __init__(self, pipe: Any, timeline: Timeline) -> None:
        self.generator, self.tokenizer, self.timeline = pipe.generator, pipe.tokenizer, timeline
        self.flops: dict[str, int] = {}
        self.passes = self.keys = 0

    @contextmanager
    def watched(self) -> Iterator[Parts]:
        """Hooks are there inside the block only."""
        handles: list[Any] = []
        try:
            handles.extend(self._hook())
            self.timeline.enter(SET_UP)
            yield self
        finally:
            self.timeline.enter(None)
            for handle in handles:
                handle.remove()

    def _hook(self) -> Iterator[Any]:
        blocks, enter = self.generator.blocks, self.timeline.enter
        yield blocks[0].register_forward_pre_hook(self._pass_begins)
        yield blocks[-1].register_forward_hook(lambda *_: enter(HEAD))
        yield self.generator.head.register_forward_hook(lambda *_: enter(SAMPLING))
        yield self.tokenizer.vq.embedding.register_forward_pre_hook(lambda *_: enter(QUANTIZER))
        yield self.tokenizer.decoder.register_forward_pre_hook(lambda *_: enter(DECODER))
        yield self.tokenizer.decoder.register_forward_hook(lambda *_: enter(OUTPUT))
        for module in self.tokenizer.decoder.modules():
            if isinstance(module, nn.Conv2d):
                yield module.register_forward_hook(self._convolved)

    def _pass_begins(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows, positions, _ = inputs[0].shape
        self.keys += positions
        part = f"blocks {self.passes}"
        self.flops[part] = block_flops(self.generator.config, rows, positions, self.keys)
        self.passes += 1
        self.timeline.enter(part)

    def _convolved(self, conv: nn.Conv2d, inputs: Any, output: Tensor) -> None:
        self.flops[DECODER] = self.flops.get(DECODER, 0) + conv_flops(conv, output)
