"""Prompt adherence on scenes: verdicts summed up by attribute and by kind of scene, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from visgen.data.scenes.sampling import KINDS
from visgen.data.scenes.scene import Scene
from visgen.evaluation.scenes.checker import SceneChecker, load_checker
from visgen.evaluation.scenes.judge import ATTRIBUTES, Verdict, judge

RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True)
class Share:
    """A fraction of pictures, with the 95 % bootstrap interval over pictures."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Adherence:
    """How often pictures show what was asked.

    Attributes:
        overall: everything right.
        kinds: everything right, by kind of scene.
        attributes: one attribute right, over the pictures whose prompt asks for it.
    """

    overall: Share
    kinds: dict[str, Share]
    attributes: dict[str, Share]

    def rows(self) -> list[tuple[str, float, int]]:
        """(name, fraction, number of pictures): the total, "KIND scenes", and attributes."""
        kinds = {f"{kind} scenes": share for kind, share in self.kinds.items()}
        named = {"all": self.overall, **kinds, **self.attributes}
        return [(name, share.value, share.count) for name, share in named.items()]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready types: value, interval [low, high] and count of each share."""
        return {
            "overall": _plain(self.overall),
            "kinds": {name: _plain(share) for name, share in self.kinds.items()},
            "attributes": {name: _plain(share) for name, share in self.attributes.items()},
        }


def evaluate_adherence(
    images_uint8: Tensor, scenes: Sequence[Scene], checker: SceneChecker | None = None
) -> Adherence:
    """Score uint8 images (B, 3, 64, 64) against what their scenes' captions say.

    Args:
        images_uint8: one image per scene.
        scenes: what was asked; only their signatures count, not their places.
        checker: what looks at the images; None = the one that ships.

    Raises:
        InputError: images of another dtype or size.
    """
    return summarize(verdicts(images_uint8, scenes, checker), [scene.kind for scene in scenes])


def verdicts(
    images_uint8: Tensor, scenes: Sequence[Scene], checker: SceneChecker | None = None
) -> list[Verdict]:
    """One verdict per image; arguments as for `evaluate_adherence`."""
    seen = (load_checker() if checker is None else checker).detect(images_uint8)
    return [judge(one, scene.signature) for one, scene in zip(seen, scenes, strict=True)]


def summarize(verdicts: Sequence[Verdict], kinds: Sequence[str]) -> Adherence:
    """Shares of verdicts; `kinds` holds the kind of scene of each."""
    correct = [verdict.correct for verdict in verdicts]
    by_kind = {k: [c for c, kind in zip(correct, kinds, strict=True) if kind == k] for k in KINDS}
    values = {name: [getattr(verdict, name) for verdict in verdicts] for name in ATTRIBUTES}
    asked = {name: [v for v in column if v is not None] for name, column in values.items()}
    return Adherence(
        overall=share(correct),
        kinds={kind: share(found) for kind, found in by_kind.items() if found},
        attributes={name: share(found) for name, found in asked.items() if found},
    )


def share(outcomes: Iterable[bool], seed: int = 0) -> Share:
    """Fraction of true outcomes with its 95 % interval over `RESAMPLES` seeded resamples."""
    flags = np.fromiter(outcomes, dtype=np.float64)
    rng = np.random.default_rng(seed)
    # resampling n flags of which a fraction p is true: the number of true ones is binomial(n, p)
    means = rng.binomial(len(flags), flags.mean(), RESAMPLES) / len(flags)
    low, high = np.quantile(means, (0.025, 0.975))
    return Share(float(flags.mean()), float(low), float(high), len(flags))


def _plain(share: Share) -> dict[str, Any]:
    return {"value": share.value, "interval": [share.low, share.high], "count": share.count}
