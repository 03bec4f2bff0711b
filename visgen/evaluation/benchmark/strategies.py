"""Decoding strategies side by side: seconds, passes, and whether the images are as good."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch

from visgen.data.scenes import Scenes
from visgen.decoding import STRATEGIES
from visgen.decoding.making import make_strategy
from visgen.errors import InputError
from visgen.evaluation.benchmark.images import dtype_name
from visgen.evaluation.benchmark.quality import Quality
from visgen.evaluation.benchmark.report import Row
from visgen.evaluation.benchmark.timing import alternate
from visgen.generators.next_token import NextTokenGenerator

ALL, BASELINE = "all", "sequential"
COUNTS = ("tested", "accepted")  # by position


def check_names(names: Sequence[str]) -> None:
    """Raises `InputError` for a strategy that does not exist, or a value that it does not take."""
    for name in names:
        if name != ALL:
            make_strategy(name)


@dataclass
class StrategyBench:
    """Measures how a pipeline draws under several strategies, one image at a time.

    Args:
        pipe: of a next-token model.
        names: strategies, "NAME" or "NAME:VALUE"; "all" = every registered one that the model can run.
        num_images: timed under each strategy, the same ones under all, strategies in turns.
        subject: a class label or a prompt; None = captions of held-out scenes, or the classes in turn.
        quality: measures adherence and FID; None = they are not asked for.
        positions: keep how often a draft was tested and accepted at each position.
        say: called with a line about what is being measured, and about strategies left out.

    Raises:
        InputError: another kind of model, an unknown strategy, or a named one that it cannot run.
    """

    pipe: Any
    names: Sequence[str] = (ALL,)
    num_images: int = 16
    subject: int | str | None = None
    quality: Quality | None = None
    positions: bool = False
    say: Callable[[str], None] = field(default=lambda line: None)

    def __post_init__(self) -> None:
        if not isinstance(self.generator, NextTokenGenerator):
            raise InputError(
                f"--strategies: {type(self.generator).__name__} decodes no tokens one by one; use a "
                "next-token model, such as scenes-ar"
            )
        check_names(self.names)
        if self.quality is not None:
            self.quality.check(self.pipe)

    @property
    def generator(self) -> Any:
        """What predicts tokens."""
        return getattr(self.pipe, "generator", None)

    @property
    def device(self) -> torch.device:
        """Where the pipeline is."""
        return self.generator.device

    def run(self) -> Iterator[Row]:
        """A row per strategy, `sequential` first; those of "all" that refuse this model are left out."""
        names = list(self._runnable())
        self.say(f"{self.num_images} images under each of {', '.join(names)}")
        columns = self._draw_all(names)
        first: Row | None = None
        for name in names:
            row = {"name": name, "dtype": dtype_name(self.pipe), **_row(columns[name])}
            first = first or row
            row["speedup"] = first["seconds"] / row["seconds"]
            if not self.positions:
                del row["tested"], row["accepted"]
            yield row | self._judged(name)

    def _runnable(self) -> Iterator[str]:
        """Strategies in order, after an image under each that is not counted."""
        listed = STRATEGIES.names() if ALL in self.names else ()
        for name in dict.fromkeys((BASELINE, *(one for one in self.names if one != ALL), *listed)):
            try:
                self.draw(name, 0)
            except InputError as error:
                if name in (BASELINE, *self.names):
                    raise
                self.say(f"{name} is left out: {error}")
                continue
            yield name

    def draw(self, name: str, index: int) -> Any:
        """Image number `index` under a strategy, as a user gets it."""
        subject = self._subjects[index]
        return self.pipe(subject, seed=0, ordinals=[index], batch_size=1, strategy=name, output_type="pt")

    def _draw_all(self, names: Sequence[str]) -> dict[str, list[tuple[float, dict[str, Any]]]]:
        """(seconds, stats) of every image, by strategy."""
        columns: dict[str, list[tuple[float, dict[str, Any]]]] = {name: [] for name in names}
        for index in range(self.num_images):
            draws = [partial(self.draw, name, index) for name in names]
            for name, timing in zip(names, alternate(draws, self.device, repeats=1, warmup=0), strict=True):
                columns[name].append((timing.seconds, timing.result.stats))
        return columns

    @cached_property
    def _subjects(self) -> list[Any]:
        """What each image shows."""
        if self.subject is not None:
            return [self.subject] * self.num_images
        if hasattr(self.pipe, "num_classes"):
            return [i % self.pipe.num_classes for i in range(self.num_images)]
        return list(Scenes("validation", balanced=True).batch(range(self.num_images)).captions or [])

    def _judged(self, name: str) -> Row:
        if self.quality is None:
            return {"adherence": None, "fid": None}
        self.say(f"{self.quality.count} images are judged: {name}")
        return self.quality(self.pipe, name)


def _row(drawn: Sequence[tuple[float, dict[str, Any]]]) -> Row:
    """Medians of seconds, means of passes; counts per position summed up over all images."""
    stats = [one for _, one in drawn]
    passes = [count for one in stats for count in one["passes"]]
    tokens = stats[0]["tokens"]
    return {
        "seconds": statistics.median(seconds for seconds, _ in drawn),
        "decoding_seconds": statistics.median(one["seconds"] for one in stats),
        "images": len(drawn),
        "tokens": tokens,
        "passes": statistics.mean(passes),
        "tokens_per_pass": tokens * len(passes) / sum(passes),
        "draft_passes": statistics.mean(one["draft_passes"] for one in stats),
        "lossless": all(one["lossless"] for one in stats),
        **{key: [sum(counts) for counts in zip(*(one[key] for one in stats), strict=True)] for key in COUNTS},
    }
