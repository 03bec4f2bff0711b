"""How fast a next-scale model draws: whole images, batches, the parts of an image, and the published loop."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.evaluation.benchmark.baseline import float32_decoder, published_loop
from visgen.evaluation.benchmark.compiling import Step, compiled_blocks, largest_difference, steps_of
from visgen.evaluation.benchmark.images import draw_images, image_rows, rates, subject_condition
from visgen.evaluation.benchmark.machine import MATMUL_SIZE, forget_peak, matmul_rate
from visgen.evaluation.benchmark.parts import DECODER, Parts
from visgen.evaluation.benchmark.report import Row
from visgen.evaluation.benchmark.timing import Timeline, measure
from visgen.generators.base import GenerationRequest
from visgen.generators.var import VARTransformer
from visgen.nn.noise import Noise
from visgen.pipelines.seeds import image_seeds
from visgen.tokenizers.tokens import ImageTokens

LARGE_SIDE = 8  # scales from this side on hold 589 of VAR-256's 680 tokens


@dataclass(frozen=True, eq=False)
class Reference:
    """What the first dtype reached, which the others are held against."""

    dtype: str
    seconds: float
    matmul_rate: float
    tokens: ImageTokens
    pixels: Tensor


@dataclass
class GenerateBench:
    """Measures a pipeline, which is left in the last of `dtypes`.

    Args:
        pipe: of a `VARTransformer`.
        subject: the class label or the prompt that is drawn.
        dtypes: names of torch dtypes; float32 comes first, because converting back would not restore it.
        batch_sizes: images at once, for the sweep.
        repeats: runs behind each median.
        compiled: also measure with compiled blocks.
        say: called with a line about what is being measured.

    Raises:
        InputError: another kind of model.
    """

    pipe: Any
    subject: int | str
    dtypes: Sequence[str] = ("float32", "bfloat16")
    batch_sizes: Sequence[int] = (1, 2, 4)
    repeats: int = 3
    compiled: bool = False
    say: Callable[[str], None] = field(default=lambda line: None)

    def __post_init__(self) -> None:
        found = getattr(self.pipe, "generator", None)
        if not isinstance(found, VARTransformer):
            raise InputError(
                f"bench generate measures VAR models, not a {type(found or self.pipe).__name__}; "
                "use scenes-var, var-d16 or another VAR"
            )
        self.dtypes = sorted(self.dtypes, key=lambda name: name != "float32")
        self._reference: Reference | None = None  # the first dtype's

    @property
    def device(self) -> torch.device:
        """Where the pipeline is."""
        return self.pipe.generator.device

    def run(self) -> Iterator[Row]:
        """Rows as they are measured, dtype by dtype."""
        for name in self.dtypes:
            self.pipe.to(getattr(torch, name))
            for row in self._rows(name):
                yield {"name": row.pop("name"), "dtype": name, **row}

    def draw(self, count: int) -> Any:
        """`count` images in one batch, as a user gets them."""
        return draw_images(self.pipe, self.subject, count)

    def _rows(self, dtype: str) -> Iterator[Row]:
        self.say(f"{dtype}: first image")
        forget_peak(self.device)
        first = measure(lambda: self.draw(1), self.device, repeats=1, warmup=0)
        yield {"name": "first image", "seconds": first.seconds}
        batches = list(image_rows(self.draw, self.batch_sizes, self.device, self.repeats, self.say))
        yield from batches
        seconds, flops, rate = self._parts()
        yield {"name": f"matmul {MATMUL_SIZE}³", "seconds": 2 * MATMUL_SIZE**3 / rate, **rates(rate)}
        yield from self._part_rows(seconds, flops, rate)
        yield self._baseline()
        yield from self._comparison(dtype, batches[0]["seconds"], rate, first.result.tokens)
        if self.compiled:
            yield self._compiled()

    def _parts(self) -> tuple[dict[str, float], dict[str, int], float]:
        """Medians of the seconds of an image's parts, their FLOPs, and the median matmul rate.

        The rate is measured beside every run: machines change their pace, and fractions should not.
        """
        self.say("parts of an image")
        runs, measured = [], []
        for _ in range(self.repeats):
            measured.append(matmul_rate(self.pipe.generator.dtype, self.device))
            timeline = Timeline(self.device)
            with Parts(self.pipe, timeline).watched() as parts:
                self.draw(1)
            runs.append(timeline.seconds)
        seconds = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
        return seconds, parts.flops, statistics.median(measured)

    def _part_rows(self, seconds: dict[str, float], flops: dict[str, int], rate: float) -> Iterator[Row]:
        """Transformer and decoder with their share of the matmul rate, then the rest."""
        passes = [part for part in seconds if part.startswith("blocks ")]
        sides = self._sides()
        large = [part for part, side in zip(passes, sides, strict=True) if side >= LARGE_SIDE]
        for part, side in zip(passes, sides, strict=True):
            label = f"blocks, {side}×{side}" if side else "blocks, text prefix"
            yield _sum(label, [part], seconds, flops, rate)
        if large:
            yield _sum(f"blocks, sides ≥ {LARGE_SIDE}", large, seconds, flops, rate)
        yield _sum("blocks", passes, seconds, flops, rate)
        for part in seconds:
            if part == DECODER:
                yield _sum(part, [part], seconds, flops, rate)
            elif part not in passes:
                yield {"name": part, "seconds": seconds[part]}

    def _sides(self) -> list[int]:
        """Side of the id map of each transformer pass; 0 stands for a text prefix."""
        prefix = [0] if self.pipe.generator.config.text_length else []
        return prefix + list(self.pipe.generator.config.scales)

    def _baseline(self) -> Row:
        self.say("published loop")
        tokenizer = float32_decoder(self.pipe.tokenizer)

        def loop() -> tuple[Tensor, Tensor]:
            return published_loop(self.pipe.generator, tokenizer, self._request())

        timing = measure(loop, self.device, repeats=self.repeats)
        return {"name": "baseline: published loop", "seconds": timing.seconds}

    def _request(self) -> GenerationRequest:
        noise = Noise.per_image(image_seeds([self.subject], 0))
        return GenerationRequest(self._condition([0]).to(self.device), self.pipe.sampling, noise)

    @cached_property
    def _condition(self) -> Callable[[list[int]], Any]:
        return subject_condition(self.pipe, self.subject)

    def _comparison(self, dtype: str, seconds: float, rate: float, tokens: ImageTokens) -> Iterator[Row]:
        """How much faster than the first dtype, and how near the decoded image of the same tokens."""
        if self._reference is None:
            self._reference = Reference(dtype, seconds, rate, tokens, self._decode(tokens))
            return
        before = self._reference
        yield {
            "name": f"against {before.dtype}",
            "speedup": before.seconds / seconds,
            "matmul_speedup": rate / before.matmul_rate,
            "psnr_db": psnr(self._decode(before.tokens), before.pixels),
        }

    def _decode(self, tokens: ImageTokens) -> Tensor:
        with torch.no_grad():
            return self.pipe.tokenizer.decode(tokens.to(self.device)).float().clamp(-1, 1).cpu()

    def _compiled(self) -> Row:
        self.say("compiled blocks")
        eager = self._steps()
        with compiled_blocks(self.pipe.generator):
            first = measure(lambda: self.draw(1), self.device, repeats=1, warmup=0)
            timing = measure(lambda: self.draw(1), self.device, repeats=self.repeats, warmup=0)
            difference = largest_difference(eager, self._steps())
        return {
            "name": "image, compiled blocks",
            "seconds": timing.seconds,
            "first_seconds": first.seconds,
            "largest_logit_difference": difference,
        }

    def _steps(self) -> list[Step]:
        return steps_of(self.pipe.generator, self._request(), self.pipe.tokenizer.quantizer)


def psnr(image: Tensor, reference: Tensor) -> float | None:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]; None when they are equal."""
    error = float((image.double() - reference.double()).square().mean())
    return 10 * math.log10(4 / error) if error else None


def _sum(
    name: str, parts: Sequence[str], seconds: dict[str, float], flops: dict[str, int], machine: float
) -> Row:
    spent, done = sum(seconds[part] for part in parts), sum(flops[part] for part in parts)
    return {"name": name, "seconds": spent, "gflop": done / 1e9, **rates(done / spent, machine)}
