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
BAD_SEED = "seed={!r} must be an integer, a list of integers, or None for a fresh one"
BAD_ORDINAL = "ordinals hold {!r}; each must be an integer of 0 or more"


def image_seeds(
    subjects: Sequence[Hashable],
    seed: Seed = None,
    generator: Generators = None,
    ordinals: Sequence[int] | None = None,
) -> list[ImageSeed]:
    """(seed, ordinal) of each image; the ordinal counts the images of one subject and seed in this call.

    Args:
        subjects: what each image shows (its prompt, its label); images of equal subjects are numbered 0, 1, …
        seed: None = a fresh one, an int for all images, or one per image.
        generator: a torch generator that the seeds are drawn from in order, or one per image.
        ordinals: one per image, used instead of counting: for an image that is part of a larger whole.

    Raises:
        InputError: seed and generator are both given, a list of another length, something else than integers
            and generators, or a negative ordinal.
    """
    seeds = _seeds(len(subjects), seed, generator)
    if ordinals is not None:
        return list(zip(seeds, _ordinals(ordinals, len(subjects)), strict=True))
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


def _ordinals(ordinals: Sequence[int], count: int) -> list[int]:
    if not isinstance(ordinals, Sequence) or isinstance(ordinals, (str, bytes)):
        raise InputError(f"ordinals={ordinals!r} must be a list of integers, one per image, or None")
    if len(ordinals) != count:
        raise InputError(f"ordinals is a list of {len(ordinals)} for {count} images; give one per image")
    values = [_integer(one, BAD_ORDINAL) for one in ordinals]
    if min(values, default=0) < 0:
        raise InputError(BAD_ORDINAL.format(min(values)))
    return values


def _one_each(name: str, values: list, count: int) -> list:
    if len(values) != count:
        raise InputError(
            f"{name} is a list of {len(values)} for {count} images; give one per image, or a single one"
        )
    return values


def _integer(value: object, problem: str = BAD_SEED) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(problem.format(value)) from None
