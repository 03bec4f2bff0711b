"""What images cost: seconds, passes of networks, tokens. Noted while they are judged."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from visgen.evaluation.subjects import Captions, Subject
from visgen.pipelines.output import ImageOutput
from visgen.tokenizers.tokens import ImageTokens


@dataclass
class Costs:
    """Notes on the batches of one pass.

    Args:
        padded: every batch computes as many images as the first, however few of them are wanted.
    """

    padded: bool
    seconds: list[float] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    draft_passes: list[int] = field(default_factory=list)

    def timed(self, count: int, make: Callable[[], Any]) -> Any:
        """What `make` gives for `count` images."""
        start = time.perf_counter()
        made = make()
        self.seconds.append(time.perf_counter() - start)
        self.images.append(count)
        return made

    def note(self, tokens: ImageTokens, output: ImageOutput | None = None) -> None:
        """Note tokens of a batch, and passes where the pipeline told them."""
        self.tokens += tokens.lengths.tolist()
        stats = {} if output is None else output.stats
        self.passes += stats.get("passes", [])
        self.draft_passes += [stats["draft_passes"]] if "draft_passes" in stats else []

    def to_dict(self, decoder_steps: int) -> dict[str, Any]:
        """JSON-ready; see `docs` of the report for what each number is.

        Args:
            decoder_steps: evaluations of the decoder for an image, of one that starts from noise.
        """
        passes, drafts = _mean(self.passes), _mean(self.draft_passes)
        return {
            "seconds_per_image": self._seconds_per_image(),
            "images_at_once": max(self.images, default=0),
            "tokens": _mean(self.tokens),
            "passes": passes,
            "draft_passes": drafts,
            "decoder_steps": decoder_steps,
            "nfe": None if passes is None else passes + decoder_steps,
        }

    def _seconds_per_image(self) -> float | None:
        """Median over batches: the first one warms up, and another process may hold one up."""
        if not self.seconds:
            return None
        computed = [max(self.images)] * len(self.images) if self.padded else self.images
        return statistics.median(s / n for s, n in zip(self.seconds, computed, strict=True))


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


class WatchedSubject(Subject):
    """A subject, its costs noted and its first images kept.

    Args:
        subject: what is judged.
        samples: images to keep.
    """

    def __init__(self, subject: Subject, samples: int) -> None:
        self._subject, self._samples = subject, samples
        self.name, self.kind, self.image_size = subject.name, subject.kind, subject.image_size
        self.length, self.device, self.dtype = subject.length, subject.device, subject.dtype
        self.checkpoint_sha256 = subject.checkpoint_sha256
        self.drawing, self.rebuilding = Costs(padded=True), Costs(padded=False)
        self.drawn: list[Tensor] = []
        self.subjects: list[str] = []
        self.rebuilt: list[Tensor] = []
        self.originals: list[Tensor] = []

    @property
    def sampling(self) -> dict[str, Any] | None:  # type: ignore[override]
        """The subject's."""
        return self._subject.sampling

    @property
    def codebook_size(self) -> int | None:
        """The subject's."""
        return self._subject.codebook_size

    def generate(self, indices: Sequence[int], captions: Captions, seed: int) -> Tensor:
        """The subject's images."""
        images = self.drawing.timed(len(indices), lambda: self._subject.generate(indices, captions, seed))
        output = self._subject.last
        if output is not None:
            self.drawing.note(output.tokens, output)
            named = output.prompts or [f"class {label}" for label in output.labels or ()]
            self.subjects += named[: self._samples - len(self.subjects)]
        self.drawn += list(images[: self._samples - len(self.drawn)])
        return images

    def reconstruct(self, images: Tensor) -> tuple[Tensor, ImageTokens]:
        """The subject's reconstructions."""
        made, tokens = self.rebuilding.timed(len(images), lambda: self._subject.reconstruct(images))
        self.rebuilding.note(tokens)
        wanted = self._samples - len(self.rebuilt)
        self.rebuilt += list(made[:wanted])
        self.originals += list(images[:wanted])
        return made, tokens

    def costs(self) -> dict[str, Any]:
        """Of generated images, or where there are none of reconstructions; of files nothing is known."""
        costs = self.drawing if self.drawing.images else self.rebuilding
        return (Costs(True) if self.kind == "folder" else costs).to_dict(self._subject.decoder_steps)
