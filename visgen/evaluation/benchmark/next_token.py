"""How fast a next-token model decodes, beside a plain loop and beside what the machine could do."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from visgen.decoding.base import Session
from visgen.decoding.sequential import Sequential
from visgen.errors import InputError
from visgen.evaluation.benchmark.compiling import Step, compiled_blocks, largest_difference
from visgen.evaluation.benchmark.flops import counted_flops
from visgen.evaluation.benchmark.images import (
    draw_images,
    dtype_name,
    image_rows,
    rates,
    subject_condition,
)
from visgen.evaluation.benchmark.machine import MATMUL_SIZE, forget_peak, matmul_rate, read_rate
from visgen.evaluation.benchmark.plain_loop import plain_loop
from visgen.evaluation.benchmark.report import Row
from visgen.evaluation.benchmark.sessions import FirstTokens, RecordingSession, weights_read
from visgen.evaluation.benchmark.timing import Timing, alternate, measure
from visgen.generators.base import GenerationRequest
from visgen.generators.next_token import NextTokenGenerator
from visgen.generators.raster import RasterTransformer
from visgen.nn.law import SequenceLaw
from visgen.nn.noise import Noise
from visgen.nn.packed import packed_weights
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.seeds import image_seeds

GUIDANCE = 4.0  # where a model's own default is off


@dataclass
class DecodeBench:
    """Measures sequential decoding of a pipeline, which is left in the last of `dtypes`.

    Args:
        pipe: of a next-token model.
        subject: the class label or the prompt that is drawn.
        dtypes: names of torch dtypes; float32 comes first, because converting back would not restore it.
        batch_sizes: images at once, for the sweep of whole images.
        repeats: runs behind each median.
        compiled: also measure with compiled blocks.
        tokens: of one image, for tokens per second; the whole image where it has fewer.
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
    tokens: int = 128
    say: Callable[[str], None] = field(default=lambda line: None)

    def __post_init__(self) -> None:
        if not isinstance(self.generator, NextTokenGenerator):
            raise InputError(
                f"{type(self.generator).__name__} is no next-token model; use scenes-ar or llamagen-b"
            )
        if self.compiled and not hasattr(self.generator, "blocks"):
            raise InputError(
                f"--compile: {type(self.generator).__name__} has no blocks to compile; leave it out"
            )
        self.dtypes = sorted(self.dtypes, key=lambda name: name != "float32")

    @property
    def generator(self) -> Any:
        """What predicts tokens."""
        return self.pipe.generator

    @property
    def device(self) -> torch.device:
        """Where the pipeline is."""
        return self.generator.device

    @cached_property
    def plain(self) -> Any:
        """A float32 copy of the generator for the plain loop; None for what that loop cannot run."""
        if not isinstance(self.generator, RasterTransformer):
            return None
        return copy.deepcopy(self.generator).float().requires_grad_(False)

    def run(self) -> Iterator[Row]:
        """Rows as they are measured, dtype by dtype."""
        self.plain  # noqa: B018 # copied before it is converted
        for name in self.dtypes:
            self.pipe.to(getattr(torch, name))
            for row in self._rows():
                yield {"name": row.pop("name"), "dtype": name, **row}

    def _rows(self) -> Iterator[Row]:
        forget_peak(self.device)
        draw = partial(draw_images, self.pipe, self.subject)
        yield from image_rows(draw, self.batch_sizes, self.device, self.repeats, self.say)
        for sampling in self._samplings():
            yield from self._decoding(sampling)

    def _samplings(self) -> tuple[TokenSampling, TokenSampling]:
        """The model's filters, without guidance and with its own or a usual one."""
        own = self.pipe.sampling
        on = GUIDANCE if own.guidance_scale == 1 else own.guidance_scale
        return tuple(dataclasses.replace(own, guidance_scale=s, guidance_steps=None) for s in (1.0, on))

    def _decoding(self, sampling: TokenSampling) -> Iterator[Row]:
        """What the machine can do, our tokens, the plain loop's, in turns; then compiled blocks."""
        how = "no guidance" if sampling.guidance_scale == 1 else f"guidance {sampling.guidance_scale:g}"
        self.say(f"{self.count} tokens, {how}")
        ours = partial(self.decode, sampling)
        loops: list[Callable[[], Tensor]] = [ours]
        if self.plain is not None:
            loops.append(lambda: plain_loop(self.plain, self._request(sampling), self.count))
        matmul, reading, size = self._machine(sampling)
        timings = alternate(loops, self.device, repeats=self.repeats)
        done = counted_flops(ours)
        limits = {"weight_bytes_per_pass": size}
        yield {"name": f"matmul {MATMUL_SIZE}³", "seconds": 2 * MATMUL_SIZE**3 / matmul, **rates(matmul)}
        yield {"name": f"reading {size / 1e6:.0f} MB", "seconds": size / reading, "bytes_per_second": reading}
        row = self._row(f"{self.count} tokens, {how}", timings[0])
        row |= rates(done / timings[0].seconds, matmul)
        row |= {"fraction_of_reading": self.count * size / timings[0].seconds / reading, **limits}
        yield row | (beside(*timings) if len(timings) > 1 else {})
        if len(timings) > 1:
            name = f"baseline: plain float32 loop, {how}"
            yield self._row(name, timings[1]) | {"dtype": "float32", "beside_dtype": dtype_name(self.pipe)}
        if self.compiled:
            yield self._compiled(f"{row['name']}, compiled blocks", sampling)

    @torch.no_grad()
    def _machine(self, sampling: TokenSampling) -> tuple[float, float, int]:
        """Rates of matmul (FLOP/s) and of reading as much as the weights of a pass (bytes/s); those bytes."""
        with packed_weights(False):  # packed layers are modules of their own
            session = self._session(sampling)
        session.prefill()
        token = torch.zeros(1, 1, session.num_codes, dtype=torch.long, device=self.device)
        size = weights_read(self.generator, lambda: session.extend(token))
        return matmul_rate(self.generator.dtype, self.device), read_rate(size, self.device), size

    def _row(self, name: str, timing: Timing) -> Row:
        speed = {"tokens": self.count, "tokens_per_second": self.count / timing.seconds}
        return {"name": name, "seconds": timing.seconds, **speed}

    def _compiled(self, name: str, sampling: TokenSampling) -> Row:
        self.say(name)
        eager = self._steps(sampling)
        with compiled_blocks(self.generator):
            first = measure(lambda: self.decode(sampling), self.device, repeats=1, warmup=0)
            timing = measure(lambda: self.decode(sampling), self.device, repeats=self.repeats, warmup=0)
            difference = largest_difference(eager, self._steps(sampling))
        return self._row(name, timing) | {
            "first_seconds": first.seconds,
            "largest_logit_difference": difference,
        }

    @cached_property
    def count(self) -> int:
        """Tokens of a measurement."""
        return min(self.tokens, self._session(self.pipe.sampling).length)

    @torch.no_grad()
    def decode(self, sampling: TokenSampling, record: list[Tensor] | None = None) -> Tensor:
        """Ids (1, count, K) of the first tokens of an image, one after another."""
        request = self._request(sampling)
        session: Session = FirstTokens(self._session(sampling), self.count)
        if record is not None:
            session = RecordingSession(session, record)
        ids, _ = Sequential()(session, SequenceLaw(sampling, self.generator.forced()), request.noise)
        return ids

    def _steps(self, sampling: TokenSampling) -> list[Step]:
        logits: list[Tensor] = []
        ids = self.decode(sampling, logits).cpu()
        return list(zip(ids.unbind(1), logits, strict=True))

    @torch.no_grad()
    def _session(self, sampling: TokenSampling) -> Session:
        return self.generator.session(self._request(sampling).condition, sampling, Sequential().entries)

    def _request(self, sampling: TokenSampling) -> GenerationRequest:
        noise = Noise.per_image(image_seeds([self.subject], 0))
        return GenerationRequest(self._condition([0]).to(self.device), sampling, noise)

    @cached_property
    def _condition(self) -> Callable[[list[int]], Any]:
        return subject_condition(self.pipe, self.subject)


def beside(ours: Timing, plain: Timing) -> Row:
    """How much faster than the plain loop, and how many first tokens are the same."""
    other = (ours.result != plain.result).any(-1).flatten().nonzero()
    same = int(other[0]) if len(other) else ours.result.shape[1]
    return {"speedup": plain.seconds / ours.seconds, "same_tokens": same}
