"""How fast xAR draws: whole images, batches, and the straightforward loop beside the network's own passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from visgen.evaluation.benchmark.entity_loop import straightforward_loop
from visgen.evaluation.benchmark.flops import counted_flops
from visgen.evaluation.benchmark.generate import psnr
from visgen.evaluation.benchmark.images import dtype_name, image_rows, rates, subject_condition
from visgen.evaluation.benchmark.machine import MATMUL_SIZE, forget_peak, matmul_rate
from visgen.evaluation.benchmark.report import Row
from visgen.evaluation.benchmark.timing import Timing, alternate, measure
from visgen.generators.base import GenerationRequest, GenerationResult
from visgen.nn.entity_sampling import EntitySampling
from visgen.nn.noise import Noise
from visgen.pipelines.seeds import image_seeds
from visgen.tokenizers.tokens import ImageTokens

COUNTED_STEPS = (3, 4)


@dataclass(frozen=True, eq=False)
class Reference:
    """What the first dtype reached, which the others are held against."""

    dtype: str
    seconds: float
    matmul_rate: float
    tokens: ImageTokens
    pixels: Tensor


@dataclass
class EntityBench:
    """Measures a pipeline of an `XARGenerator`, which is left in the last of `dtypes`.

    Args:
        pipe: the pipeline.
        subject: the class label or the prompt that is drawn.
        dtypes: names of torch dtypes; float32 comes first, because converting back would not restore it.
        batch_sizes: images at once, for the sweep.
        repeats: runs behind each median.
        steps: flow steps per entity; None = the model's own.
        say: called with a line about what is being measured.
    """

    pipe: Any
    subject: int | str
    dtypes: Sequence[str] = ("float32", "bfloat16")
    batch_sizes: Sequence[int] = (1, 2, 4)
    repeats: int = 3
    steps: int | None = None
    say: Callable[[str], None] = field(default=lambda line: None)

    def __post_init__(self) -> None:
        self.dtypes = sorted(self.dtypes, key=lambda name: name != "float32")
        own: EntitySampling = self.pipe.sampling
        self.sampling = own if self.steps is None else replace(own, num_inference_steps=self.steps)
        self._reference: Reference | None = None  # the first dtype's

    @property
    def generator(self) -> Any:
        """The `XARGenerator`."""
        return self.pipe.generator

    @property
    def device(self) -> torch.device:
        """Where the pipeline is."""
        return self.generator.device

    def run(self) -> Iterator[Row]:
        """Rows as they are measured, dtype by dtype."""
        for name in self.dtypes:
            self.pipe.to(getattr(torch, name))
            for row in self._rows():
                yield {"name": row.pop("name"), "dtype": name, **row}

    def draw(self, count: int) -> Any:
        """`count` images in one batch, as a user gets them."""
        steps = self.sampling.num_inference_steps
        options = {"batch_size": count, "fixed_batch": True, "num_inference_steps": steps}
        return self.pipe(self.subject, num_images_per_prompt=count, seed=0, output_type="pt", **options)

    def _rows(self) -> Iterator[Row]:
        forget_peak(self.device)
        yield from image_rows(self.draw, self.batch_sizes, self.device, self.repeats, self.say)
        self.say("network and straightforward loop")
        rate = matmul_rate(self.generator.dtype, self.device)
        yield {"name": f"matmul {MATMUL_SIZE}³", "seconds": 2 * MATMUL_SIZE**3 / rate, **rates(rate)}
        loops = [self._latents, self._straightforward]
        ours, plain = alternate(loops, self.device, repeats=self.repeats, warmup=0)
        yield self._network(ours, plain, rate)
        yield self._baseline(plain, rate)
        yield self._decoder(ours.result.tokens)
        yield from self._comparison(ours, rate)

    def _network(self, ours: Timing, plain: Timing, rate: float) -> Row:
        difference = (ours.result.tokens.latents.float() - plain.result).abs().max()
        return {
            "name": f"latents of an image, {self.sampling.num_inference_steps} steps",
            "seconds": ours.seconds,
            **self._work(self._latents, ours.seconds, rate),
            "network_calls": ours.result.stats["passes"],
            "speedup": plain.seconds / ours.seconds,
            "largest_latent_difference": float(difference),
        }

    def _baseline(self, plain: Timing, rate: float) -> Row:
        calls = self.sampling.num_inference_steps * len(self.generator.entities)
        work = self._work(self._straightforward, plain.seconds, rate)
        name = "baseline: straightforward loop"
        return {"name": name, "seconds": plain.seconds, **work, "network_calls": calls}

    def _work(self, loop: Callable[[EntitySampling], Any], seconds: float, rate: float) -> Row:
        """FLOPs of a loop, which grow evenly with the steps, and their share of what the machine reaches."""
        steps = self.sampling.num_inference_steps
        few, more = (
            counted_flops(partial(loop, replace(self.sampling, num_inference_steps=n))) for n in COUNTED_STEPS
        )
        done = few + (steps - COUNTED_STEPS[0]) * (more - few)
        return {"gflop": done / 1e9, **rates(done / seconds, rate)}

    def _decoder(self, tokens: ImageTokens) -> Row:
        timing = measure(lambda: self._decode(tokens), self.device, repeats=self.repeats, warmup=0)
        return {"name": "image decoder", "seconds": timing.seconds}

    def _comparison(self, ours: Timing, rate: float) -> Iterator[Row]:
        """How much faster than the first dtype, and how near the decoded image of the same latents."""
        tokens, before = ours.result.tokens, self._reference
        if before is None:
            pixels = self._decode(tokens)
            self._reference = Reference(dtype_name(self.pipe), ours.seconds, rate, tokens, pixels)
            return
        yield {
            "name": f"against {before.dtype}",
            "speedup": before.seconds / ours.seconds,
            "matmul_speedup": rate / before.matmul_rate,
            "psnr_db": psnr(self._decode(before.tokens), before.pixels),
        }

    @torch.no_grad()
    def _decode(self, tokens: ImageTokens) -> Tensor:
        return self.pipe.tokenizer.decode(tokens.to(self.device)).float().clamp(-1, 1).cpu()

    def _latents(self, sampling: EntitySampling | None = None) -> GenerationResult:
        return self.generator.generate(self._request(sampling))

    def _straightforward(self, sampling: EntitySampling | None = None) -> Tensor:
        return straightforward_loop(self.generator, self._request(sampling))

    def _request(self, sampling: EntitySampling | None) -> GenerationRequest:
        noise = Noise.per_image(image_seeds([self.subject], 0))
        condition = self._condition([0]).to(self.device)
        return GenerationRequest(condition, sampling or self.sampling, noise)

    @cached_property
    def _condition(self) -> Callable[[list[int]], Any]:
        return subject_condition(self.pipe, self.subject)
