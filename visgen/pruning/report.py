"""What a pruning kept and what it cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visgen.pruning.flops import DecoderShape, ratio


@dataclass(frozen=True, eq=False)
class PruneReport:
    """One prompt batch. Samples are rows of the batch; images are numbered in the order of their prompt.

    Attributes:
        entered: of each sample and image, which of its tokens entered the language model, in the order in
            which they stood there; int64, numbers among the image's tokens in the prompt.
        kept: the same of those that reached the last layer.
        image_tokens: of each sample and image, tokens before pruning.
        text_tokens: of each sample, tokens that are no image's.
        counts: of each sample, image tokens in each decoder layer.
        entries_BL: int64, for each entry of the pruned sequence (what `logits` of a plain forward speak of)
            its place in the prompt, −1 where padded.
        selection_ms: milliseconds that the pruners' own work took, wherever it happened.
        prefill_ms: milliseconds of the prefill without it; the vision tower counts where the model runs it
            inside its forward, which `generate` does not.
        shape: of the decoder, for the costs.
        cache_bytes: of each sample, keys and values of its tokens after the prefill, padding left out; 0
            without a cache.
    """

    entered: tuple[tuple[Tensor, ...], ...]
    kept: tuple[tuple[Tensor, ...], ...]
    image_tokens: tuple[tuple[int, ...], ...]
    text_tokens: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]
    entries_BL: Tensor
    selection_ms: float
    prefill_ms: float
    shape: DecoderShape
    cache_bytes: tuple[int, ...]

    @property
    def average_tokens(self) -> tuple[float, ...]:
        """Of each sample, image tokens as a mean over the layers ("equal token number")."""
        return tuple(sum(row) / len(row) for row in self.counts)

    @property
    def flops_ratio(self) -> float:
        """Multiply-adds of the prefill's decoder layers against those without pruning."""
        return self._ratio(self.shape.layer)

    @property
    def paper_flops_ratio(self) -> float:
        """The same by the papers' formula."""
        return self._ratio(self.shape.paper_layer)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "entered": [[image.tolist() for image in row] for row in self.entered],
            "kept": [[image.tolist() for image in row] for row in self.kept],
            "image_tokens": [list(row) for row in self.image_tokens],
            "text_tokens": list(self.text_tokens),
            "counts": [list(row) for row in self.counts],
            "average_tokens": list(self.average_tokens),
            "cache_bytes": list(self.cache_bytes),
            "selection_ms": self.selection_ms,
            "prefill_ms": self.prefill_ms,
            "flops_ratio": self.flops_ratio,
            "paper_flops_ratio": self.paper_flops_ratio,
        }

    def _ratio(self, layer: Any) -> float:
        """Mean over the samples."""
        ratios = [
            ratio([text + count for count in counts], text + sum(images), layer)
            for text, counts, images in zip(self.text_tokens, self.counts, self.image_tokens, strict=True)
        ]
        return sum(ratios) / len(ratios)


class Clock:
    """Milliseconds of named parts; parts inside another one are taken off it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """What follows belongs to another prompt."""
        self.selection = self.prefill = self._begun = self._before = 0.0

    def start(self) -> None:
        """The prefill begins; what was selected before it, in the tower, stays counted."""
        self._before, self._begun = self.selection, self._now()

    def stop(self) -> None:
        """The prefill ends."""
        self.prefill = self._now() - self._begun - (self.selection - self._before)

    @contextmanager
    def selecting(self) -> Iterator[None]:
        """Whatever happens inside is the pruners' work."""
        begun = self._now()
        yield
        self.selection += self._now() - begun

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() * 1000


def split_by_image(places: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Places in a prompt as numbers among each image's tokens, in the order given."""
    found = []
    for positions in images:
        inside = torch.isin(places, positions)
        found.append(torch.searchsorted(positions, places[inside]))
    return tuple(found)
