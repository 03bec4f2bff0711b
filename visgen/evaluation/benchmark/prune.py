"""How long pruners take to choose, beside the straightforward way, and what that saves of a prefill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.evaluation.benchmark import straightforward_pruning as straightforward
from visgen.evaluation.benchmark.machine import forget_peak, peak_memory
from visgen.evaluation.benchmark.prune_cases import LAYERS, LayerCase, Widths, image_case
from visgen.evaluation.benchmark.report import Row
from visgen.evaluation.benchmark.timing import Timing, alternate, measure
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.making import parse_pruner
from visgen.pruning.rows import attention_rows
from visgen.pruning.scoring import cls_products
from visgen.pruning.views import ImageView, Selection

TOKENS = (576, 2880, 10_000)


@dataclass
class SelectionBench:
    """Times what a pruner does besides the model: scores from queries and keys, and the choice.

    Args:
        names: pruners as `parse_pruner` reads them.
        tokens: image tokens, N.
        device: where.
        widths: of decoder and tower.
        repeats: runs behind each median.
        say: called with a line about what is being measured.

    Raises:
        InputError: a name that is no pruner.
    """

    names: Sequence[str]
    tokens: Sequence[int] = TOKENS
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    widths: Widths = field(default_factory=Widths)
    repeats: int = 3
    say: Callable[[str], None] = field(default=lambda line: None)

    def __post_init__(self) -> None:
        self.pruners = {name: parse_pruner(name) for name in self.names}

    @torch.no_grad()
    def run(self) -> Iterator[Row]:
        """Rows as they are measured, number by number of tokens."""
        for count in self.tokens:
            image, layer = image_case(count, self.widths, self.device), None
            for name, pruner in self.pruners.items():
                self.say(f"{name}: choosing among {count:,} tokens")
                for part in pruner.parts:
                    label = name if len(pruner.parts) == 1 else f"{name}: {type(part).__name__}"
                    if part.layers(LAYERS):
                        layer = layer or LayerCase.build(count, self.widths, self.device)
                        yield from self._inside(label, part, image, layer)
                    else:
                        yield from self._before(label, part, image)

    def _before(self, name: str, part: VisionTokenPruner, image: ImageView) -> Iterator[Row]:
        ours: Callable[[], Tensor] = partial(choose_before, part, image)
        try:
            kept = ours()
        except InputError as error:  # a method for crops has nothing to do on one tile
            yield self._row(name, len(image), None, None) | {"refused": str(error)}
            return
        other, needed = straightforward.BEFORE.get(name.split(":")[0], (None, None))
        fits = needed is not None and needed(image) <= straightforward.LIMIT
        slow = partial(other, part, image) if other is not None and fits else None
        yield from self._beside(name, len(image), len(kept), ours, slow)

    def _inside(
        self, name: str, part: VisionTokenPruner, image: ImageView, layer: LayerCase
    ) -> Iterator[Row]:
        """Rows and choice after the first layer where the pruner acts, and what it does before."""
        ours: Callable[[], Tensor] = partial(choose_inside, part, image, layer)
        try:
            kept = ours()
        except InputError as error:
            yield self._row(name, layer.tokens, None, None) | {"refused": str(error)}
            return
        bytes_needed = straightforward.map_bytes(len(layer.hidden_LD), self.widths.num_heads)
        other = None
        if part.attention_rows is not None and bytes_needed <= straightforward.LIMIT:
            other = partial(choose_inside, part, image, layer, whole=True)
        yield from self._beside(name, layer.tokens, len(kept), ours, other)

    def _beside(
        self,
        name: str,
        tokens: int,
        kept: int,
        ours: Callable[[], Tensor],
        other: Callable[[], Tensor] | None,
    ) -> Iterator[Row]:
        warmup = min(1, self.repeats - 1)
        if other is None:
            timing = measure(ours, self.device, repeats=self.repeats, warmup=warmup)
            yield self._row(name, tokens, kept, timing)
            return
        first, second = alternate([ours, other], self.device, repeats=self.repeats, warmup=warmup)
        same = sorted(first.result.tolist()) == sorted(second.result.tolist())
        speedup = second.seconds / first.seconds
        yield self._row(name, tokens, kept, first) | {"speedup": speedup, "same_choice": same}
        yield self._row(f"baseline: {name}, straightforward", tokens, kept, second)

    def _row(self, name: str, tokens: int, kept: int | None, timing: Timing | None) -> Row:
        return {
            "name": name,
            "part": "selection",
            "dtype": "float32",
            "tokens": tokens,
            "kept": kept,
            "seconds": None if timing is None else timing.seconds,
        }


def choose_before(part: VisionTokenPruner, image: ImageView, notes: dict[str, Any] | None = None) -> Tensor:
    """What a pruner keeps before the language model, its scores included."""
    if "scores" in part.needs:
        assert image.tower is not None
        products = cls_products(image.tower.queries_TLC, image.tower.keys_TLC, image.tower.num_heads)
        image = replace(image, scores_N=products.softmax(dim=-1).mean(dim=1)[:, 1:].flatten())
    (selection,) = part.select([replace(image, notes={} if notes is None else notes)]) or [
        Selection(image.slots_N)
    ]
    return selection.index_K


def choose_inside(part: VisionTokenPruner, image: ImageView, layer: LayerCase, whole: bool = False) -> Tensor:
    """What a pruner keeps after the first of its layers, from a few rows or from the whole map."""
    notes: dict[str, Any] = {}
    choose_before(part, image, notes)
    attention_HTN = None
    if part.attention_rows is not None:
        rows_T = layer.rows(part.attention_rows)
        if whole:
            attention_HTL = straightforward.whole_map(layer)[:, rows_T]
        else:
            valid_L = torch.ones(len(layer.hidden_LD), dtype=torch.bool, device=rows_T.device)
            attention_HTL = attention_rows(
                layer.attention, layer.hidden_LD, layer.rotary, rows_T, valid_L, layer.keys_HLD
            )
        attention_HTN = attention_HTL[..., : layer.tokens]
    return part.filter(layer.view(attention_HTN, 0, min(part.layers(LAYERS)), notes))


@dataclass
class PrefillBench:
    """Times the vision part and the prefill of a model with and without pruners.

    Args:
        model: a random LLaVA, see `random_llava`.
        names: pruners as `parse_pruner` reads them.
        repeats: runs behind each median.
        say: called with a line about what is being measured.
    """

    model: Any
    names: Sequence[str]
    repeats: int = 3
    question: int = 40
    say: Callable[[str], None] = field(default=lambda line: None)

    @torch.no_grad()
    def run(self) -> Iterator[Row]:
        """The prefill without a pruner, then under each."""
        self.say("prefill of all tokens")
        device = self.model.device
        forget_peak(device)
        vision, full = self._vision(), self._prefill(self._vision().result)
        yield self._row("vision tower", vision)
        yield self._row("prefill, all tokens", full) | {
            "tokens": self._image_tokens,
            "kept": self._image_tokens,
        }
        for name in self.names:
            self.say(f"prefill under {name}")
            forget_peak(device)
            with parse_pruner(name)(self.model) as run:
                timing = self._prefill(self._vision().result)
            report = run.report
            yield self._row(f"prefill, {name}", timing) | {
                "tokens": self._image_tokens,
                "kept": len(report.kept[0][0]),
                "speedup": full.seconds / timing.seconds,
                "selection_ms": report.selection_ms,
                "flops_ratio": report.flops_ratio,
                "paper_flops_ratio": report.paper_flops_ratio,
            }

    @property
    def _image_tokens(self) -> int:
        vision = self.model.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    def _vision(self) -> Timing:
        side = self.model.config.vision_config.image_size
        pixels = torch.zeros(1, 3, side, side, device=self.model.device, dtype=self.model.dtype)
        features = partial(self.model.model.get_image_features, pixels, return_dict=True)
        return measure(features, self.model.device, repeats=self.repeats, warmup=min(1, self.repeats - 1))

    def _prefill(self, outputs: Any) -> Timing:
        words = torch.arange(5, 5 + self.question, device=self.model.device)
        image = torch.full((self._image_tokens,), self.model.config.image_token_id, device=words.device)
        ids = torch.cat([words[:5], image, words[5:]])[None]

        def read() -> Tensor:
            encoded = {"image": outputs}
            return self.model(
                input_ids=ids, mm_encoder_outputs=encoded, use_cache=True, logits_to_keep=1
            ).logits

        return measure(read, self.model.device, repeats=self.repeats, warmup=min(1, self.repeats - 1))

    def _row(self, name: str, timing: Timing) -> Row:
        return {
            "name": name,
            "part": "prefill",
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "seconds": timing.seconds,
            "peak_memory_bytes": peak_memory(self.model.device),
        }
