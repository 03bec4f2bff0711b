"""Which (seed, ordinal) each image of a call gets: what makes an image independent of its batch."""

from __future__ import annotations

import operator
import secrets
from collections import Counter
from collections.abc import Hashable, Sequence

import torch

from visgen.errors import InputError

Seed = int | Sequence[int] | None
Generators = torch.Generator | Sequence[torch.Generator] | None
ImageSeed = tuple[int, int]

FRESH_SEEDS = 2**32  # fresh seeds stay short enough to type


def image_seeds(
    subjects: Sequence[Hashable], seed: Seed = None, generator: Generators = None
) -> list[ImageSeed]:
    """(seed, ordinal) of each image; the ordinal counts the images of one subject and seed in this call.

    Args:
        subjects: what each image shows (its prompt, its label); images of equal subjects are numbered 0, 1, …
        seed: None = a fresh one, an int for all images, or one per image.
        generator: a torch generator that the seeds are drawn from in order, or one per image.

    Raises:
        InputError: both are given, a list of another length, or something else than integers and generators.
    """
    seeds = _seeds(len(subjects), seed, generator)
    counts: Counter[tuple[Hashable, int]] = Counter()
    out = []
    for key in zip(subjects, seeds, strict=True):
        out.append((key[1], counts[key]))
        counts[key] += 1
    return out


def _seeds(count: int, seed: Seed, generator: Generators) -> list[int]:
    if seed is not None and generator is not None:
        raise InputError("seed and generator are both given; give one of them")
    if generator is not None:
        return _drawn(count, generator)
    if seed is None:
        seed = secrets.randbelow(FRESH_SEEDS)
    if isinstance(seed, (list, tuple)):
        return _one_each("seed", [_integer(one) for one in seed], count)
    return [_integer(seed)] * count


def _drawn(count: int, generator: torch.Generator | Sequence[torch.Generator]) -> list[int]:
    generators = list(generator) if isinstance(generator, (list, tuple)) else [generator] * count
    if not all(isinstance(one, torch.Generator) for one in generators):
        raise InputError(
            f"generator={generator!r} must be a torch.Generator or a list of them, one per image"
        )
    generators = _one_each("generator", generators, count)
    return [int(torch.randint(2**62, (), generator=one, device=one.device)) for one in generators]


def _one_each(name: str, values: list, count: int) -> list:
    if len(values) != count:
        raise InputError(
            f"{name} is a list of {len(values)} for {count} images; give one per image, or a single one"
        )
    return values


def _integer(seed: object) -> int:
    try:
        if isinstance(seed, bool):
            raise TypeError
        return operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"seed={seed!r} must be an integer, a list of integers, or None for a fresh one"
        ) from None
