"""How fast a tokenizer encodes and decodes, beside the straightforward way where ours does less work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from visgen.data.images import to_pil
from visgen.data.scenes import Scenes
from visgen.errors import InputError
from visgen.evaluation.benchmark.machine import forget_peak, peak_memory
from visgen.evaluation.benchmark.report import Row
from visgen.evaluation.benchmark.timing import Timing, alternate, measure
from visgen.evaluation.rate import doubling
from visgen.pipelines.batching import device_of
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.tokenizers.flextok import FlexTokTokenizer
from visgen.tokenizers.karl import KARLTokenizer
from visgen.tokenizers.tokens import ImageTokens, Sequence1D


@dataclass
class TokenizeBench:
    """Measures a tokenizer as it is, on pictures of scenes.

    Args:
        name: of the model, for the rows.
        pipe: its pipeline.
        batch_sizes: images at once.
        lengths: numbers of tokens that are decoded, for tokenizers that can choose; None = 1, 4, 16, … all.
        steps: of decoders that start from noise; None = their own.
        repeats: runs behind each median.
        say: called with a line about what is being measured.

    Raises:
        InputError: lengths that it cannot make, or steps of a decoder that takes none.
    """

    name: str
    pipe: ReconstructPipeline
    batch_sizes: Sequence[int] = (1, 4)
    lengths: Sequence[int] | None = None
    steps: int | None = None
    repeats: int = 3
    say: Callable[[str], None] = field(default=lambda line: None)

    def __post_init__(self) -> None:
        if self.lengths is not None and not self.flexible:
            raise InputError(
                f"--num-tokens: {self.name} always makes {self.tokenizer.layout.length} tokens; leave it out"
            )
        for length in self.lengths or ():
            self.tokenizer.check_knobs(length, None)

    @property
    def tokenizer(self) -> Any:
        """What is measured."""
        return self.pipe.tokenizer

    @property
    def flexible(self) -> bool:
        """Whether the number of tokens can be chosen."""
        return "num_tokens" in self.tokenizer.knobs

    @property
    def device(self) -> torch.device:
        """Where the tokenizer is."""
        return device_of(self.tokenizer)

    @cached_property
    def sampling(self) -> Any:
        """Of decoders that start from noise; None = their own, or none."""
        if self.steps is None or not self.tokenizer.starts_from_noise:
            return None
        drawing = self.pipe.checked_drawing(decoding={"num_inference_steps": self.steps})
        return drawing["decoding"]

    @torch.no_grad()
    def run(self) -> Iterator[Row]:
        """Rows as they are measured, batch size by batch size."""
        for size in dict.fromkeys(self.batch_sizes):
            forget_peak(self.device)
            images = self._images(size)
            yield from self._encoding(images)
            tokens = self.tokenizer.encode(images)
            rest = self._autoencoder(size) if isinstance(self.tokenizer, FlexTokTokenizer) else None
            yield from [] if rest is None else [rest]
            for length in self._lengths():
                yield from self._decoding(cut(self.tokenizer, tokens, length), rest)

    def _images(self, count: int) -> Tensor:
        scenes = Scenes("validation", balanced=True).batch(range(count)).images
        return self.tokenizer.preprocess(to_pil(scenes.float() / 127.5 - 1))

    def _lengths(self) -> list[int]:
        """Ascending; the number of all tokens where it cannot be chosen."""
        most = self.tokenizer.layout.length
        if not self.flexible:
            return [most]
        return sorted(self.lengths or {*doubling(1, most)[::2], most})

    def _encoding(self, images: Tensor) -> Iterator[Row]:
        """All tokens, and the fewest where that is less work."""
        lengths = self._lengths() if isinstance(self.tokenizer, FlexTokTokenizer) else []
        wanted = [None, *({lengths[0]} - {self.tokenizer.layout.length} if lengths else ())]
        for length in wanted:
            knobs = {} if length is None else {"num_tokens": length}
            tokens = self.tokenizer.layout.length if length is None else length
            self.say(f"{self.name}: encoding {len(images)} images to {tokens} tokens")
            timing = self._measure(partial(self.tokenizer.encode, images, **knobs))
            yield self._row("encode", len(images), tokens, timing)

    def _decoding(self, tokens: ImageTokens, rest: Row | None) -> Iterator[Row]:
        """Ours, and the straightforward way in turns with it; `rest` is the part that both have."""
        count = int(tokens.lengths[0])
        self.say(f"{self.name}: decoding {len(tokens)} images of {count} tokens")
        other = straightforward(self.tokenizer)
        ways = [self._decode(tokens)]
        if other is not None:
            ways.append(partial(other, tokens, **self._drawn))
        ours, *dense = alternate(ways, self.device, repeats=self.repeats, warmup=self._warmup)
        row = self._row("decode", len(tokens), count, ours)
        if dense:
            difference = float((ours.result - dense[0].result).abs().max())
            row |= {"speedup": dense[0].seconds / ours.seconds, "largest_pixel_difference": difference}
            if rest is not None:
                both = rest["seconds"] * len(tokens)
                row["flow_speedup"] = (dense[0].seconds - both) / (ours.seconds - both)
        yield row
        if dense:
            yield self._row("baseline: decode with all tokens masked", len(tokens), count, dense[0])

    def _measure(self, function: Callable[[], Any]) -> Timing:
        return measure(function, self.device, repeats=self.repeats, warmup=self._warmup)

    @property
    def _warmup(self) -> int:
        """None where one run is asked for: large models take minutes on a CPU."""
        return min(1, self.repeats - 1)

    @property
    def _drawn(self) -> dict[str, Any]:
        return {} if self.sampling is None else {"sampling": self.sampling}

    def _decode(self, tokens: ImageTokens) -> Callable[[], Tensor]:
        more = {} if self.pipe.renderer is None else {"renderer": self.pipe.renderer}
        return partial(self.tokenizer.decode, tokens, **self._drawn, **more)

    def _autoencoder(self, size: int) -> Row:
        """The part of decoding that does not depend on tokens."""
        latents = torch.randn(size, *self.tokenizer.latent_size, device=self.device).to(self.tokenizer.dtype)
        timing = self._measure(partial(self.tokenizer.codec.decode, latents))
        return self._row("autoencoder alone", size, None, timing)

    def _row(self, what: str, size: int, tokens: int | None, timing: Timing) -> Row:
        each = timing.seconds / size
        flow = self.sampling or getattr(self.tokenizer, "sampling", None)
        steps = getattr(flow, "num_inference_steps", None) if "decode" in what else None
        return {
            "name": f"{self.name}: {what}",
            "model": self.name,
            "dtype": str(self.tokenizer.dtype).removeprefix("torch."),
            "seconds": each,
            "images_per_second": 1 / each,
            "batch_size": size,
            "tokens": tokens,
            **({} if steps is None else {"steps": steps}),
            "peak_memory_bytes": peak_memory(self.device),
        }


def cut(tokenizer: Any, tokens: ImageTokens, length: int) -> ImageTokens:
    """The first `length` tokens: of a KARL tokenizer the active ones among all, of others a prefix."""
    if isinstance(tokenizer, KARLTokenizer):
        mask = torch.arange(tokens.layout.length, device=tokens.values.device) < length
        return replace(tokens, mask=mask.expand(len(tokens), -1))
    if length == tokens.layout.length:
        return tokens
    return ImageTokens(Sequence1D(length), ids=tokens.values[:, :length])


def straightforward(tokenizer: Any) -> Callable[..., Tensor] | None:
    """Decoding as official code does it, all tokens in place and masked; None where ours is no shorter."""
    if isinstance(tokenizer, FlexTokTokenizer):
        return partial(tokenizer.decode, collapse=False)
    return partial(_dense, tokenizer) if isinstance(tokenizer, KARLTokenizer) else None


def _dense(tokenizer: KARLTokenizer, tokens: ImageTokens) -> Tensor:
    side = tokenizer.pixel_size // tokenizer.base_tokenizer.downsampling
    predicted = tokenizer.decoder.dense(tokenizer.embed_tokens(tokens), (side, side), tokens.mask)
    return tokenizer.base_tokenizer.decode(predicted, (side, side))
