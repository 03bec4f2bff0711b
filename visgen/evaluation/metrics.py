"""The metrics by name: which way is better, and what each has to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from visgen.errors import InputError, UnknownNameError
from visgen.registry import nearest


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: what `--metrics` takes.
        higher_is_better: which way to read it.
        generated: it judges generated images; otherwise reconstructions of the reference.
        features: it compares features with the reference's.
        real_images: it needs the reference's images themselves, not only their mean and covariance.
        minimum: images it needs at least.
        network: it looks through a network of its own, one of `networks.RECIPES`.
        captions: it needs to know what each image should show.
    """

    name: str
    higher_is_better: bool
    generated: bool = True
    features: bool = False
    real_images: bool = False
    minimum: int = 1
    network: bool = False
    captions: bool = False


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("fid", False, features=True, minimum=2),
        Metric("kid", False, features=True, real_images=True, minimum=4),
        Metric("is", True, minimum=10),
        Metric("precision", True, features=True, real_images=True, minimum=5),
        Metric("recall", True, features=True, real_images=True, minimum=5),
        Metric("fd_dinov2", False, real_images=True, minimum=2, network=True),
        Metric("cmmd", False, real_images=True, minimum=2, network=True),
        Metric("clip_score", True, network=True, captions=True),
        Metric("adherence", True, real_images=True),
        Metric("rfid", False, generated=False, features=True, real_images=True, minimum=2),
        Metric("psnr", True, generated=False, real_images=True),
        Metric("ssim", True, generated=False, real_images=True),
        Metric("lpips", False, generated=False, real_images=True),
        Metric("codebook", True, generated=False, real_images=True),
        Metric("l1", False, generated=False, real_images=True),
        Metric("l1_p90", False, generated=False, real_images=True),
        Metric("within", True, generated=False, real_images=True),
        Metric("tokens", False, generated=False, real_images=True),
    )
}
GENERATION = tuple(name for name, metric in METRICS.items() if metric.generated)
RECONSTRUCTION = tuple(name for name, metric in METRICS.items() if not metric.generated)

# Kept as feature rows beside mean and covariance
ROW_METRICS = ("kid", "precision", "recall")
# Each looks through a network of its own
NETWORK_METRICS = tuple(name for name, metric in METRICS.items() if metric.network)
# Made of the error of each image
ERROR_METRICS = ("l1", "l1_p90", "within")


def listed(names: Sequence[str], word: str) -> str:
    """Two names or more as a sentence has them: "a, b and c", where `word` is "and"."""
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def parse_metrics(text: str | Sequence[str]) -> tuple[str, ...]:
    """Names from "fid,kid" or a list, without repetition, in the order given.

    Raises:
        UnknownNameError: a name that is none.
        InputError: no name at all.
    """
    parts = text.split(",") if isinstance(text, str) else text
    names = tuple(dict.fromkeys(part.strip().lower() for part in parts if part.strip()))
    for name in names:
        if name not in METRICS:
            raise UnknownNameError(f"unknown metric {name!r}: {nearest(name, list(METRICS))}")
    if not names:
        raise InputError(f"metrics={text!r} names none; use some of {', '.join(METRICS)}")
    return names
