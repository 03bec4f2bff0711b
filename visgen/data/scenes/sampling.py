"""Drawing scenes: a signature of the wanted split first, then positions and radii that fit it."""

from __future__ import annotations

import operator
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from visgen.data.scenes.scene import Look, Scene, SceneObject, Signature
from visgen.data.scenes.splits import belongs, check_split
from visgen.data.scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    FORBIDDEN,
    IMAGE_SIZE,
    RELATIONS,
    SHAPES,
    SIZES,
)
from visgen.errors import InputError

T = TypeVar("T")

KINDS = ("single", "relation", "pair", "count")
_KIND_DRAW = ("relation",) * 9 + ("single",) * 5 + ("count",) * 4 + ("pair",) * 2  # 45, 25, 20 and 10 %
_BACKGROUND_DRAW = ("white",) * 3 + tuple(BACKGROUNDS)  # white one time in three
_COUNT_SIZES = ("medium", "medium", "small")
_SINGLE_SIZES = ("medium", "medium", "small", "large")
_TWO_SIZES = ("medium",) * 5 + ("small",) * 2 + ("large",) * 2
_ALLOWED = {name: tuple(c for c in COLOURS if c not in FORBIDDEN[name]) for name in BACKGROUNDS}

_CENTRE = IMAGE_SIZE / 2
_MARGIN = 1.5  # pixels kept free at the border
_GAP = 3.0  # pixels at least between two objects; large beside medium just fits: 2 * (17 + 12) + 3 + 3 = 64
_SPREAD = 15.0  # from the centre to the objects of a count
_COUNT_SPOTS = {
    2: ((-1, 0), (1, 0)),
    3: ((0, -1), (-1, 1), (1, 1)),
    4: ((-1, -1), (1, -1), (-1, 1), (1, 1)),
}


def kinds_of(split: str) -> tuple[str, ...]:
    """The kinds of scenes that a split holds; raises `InputError` for an unknown split."""
    return ("relation",) if check_split(split) == "test_relations" else KINDS


def sample_scene(split: str, index: int, kind: str | None = None) -> Scene:
    """Draws scene number `index` of `split`, always the same one.

    Args:
        split: one of `SPLITS`; no signature appears in two of them. Or `JUDGE`, for what scores models.
        index: any non-negative integer.
        kind: one of `kinds_of(split)`, numbered apart; None = the natural mix of kinds.

    Raises:
        InputError: unknown split or kind, or a negative index.
    """
    number, kinds = operator.index(index), kinds_of(split)
    if number < 0:
        raise InputError(f"index={index} is negative; scenes are numbered from 0.")
    if kind is not None and kind not in kinds:
        raise InputError(f"kind={kind!r} is not in split {split!r}; use one of {', '.join(kinds)}.")
    rng = random.Random(f"{split}:{number}" if kind is None else f"{split}:{kind}:{number}")
    if kind is None:
        kind = "relation" if kinds == ("relation",) else _pick(rng, _KIND_DRAW)
    signature = _draw(rng, kind)
    while not belongs(signature, split):  # about 1 draw for train, 16 for validation, 10 for the tests
        signature = _draw(rng, kind)
    return place(signature, rng)


def place(signature: Signature, rng: random.Random) -> Scene:
    """Gives positions and radii to a signature: nothing overlaps or leaves the canvas."""
    if signature.kind == "count":
        objects = _place_count(signature, rng)
    elif signature.kind == "single":
        objects = (_place_single(signature.looks[0], rng),)
    else:
        objects = _place_two(signature, rng)
    return Scene(signature.kind, objects, signature.relation, signature.background)


def shrunk(scene: Scene, factor: float = 0.5) -> Scene:
    """The scene with smaller objects in the same places: all that a caption says holds but the sizes."""
    objects = tuple(replace(thing, radius=thing.radius * factor) for thing in scene.objects)
    return replace(scene, objects=objects)


# Only `random()` is promised to give the same values in every Python version, so all draws go through it.
def _pick(rng: random.Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _between(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _draw(rng: random.Random, kind: str) -> Signature:
    background = _pick(rng, _BACKGROUND_DRAW)
    colours = _ALLOWED[background]
    if kind in ("single", "count"):
        sizes = _SINGLE_SIZES if kind == "single" else _COUNT_SIZES
        look = Look(_pick(rng, SHAPES), _pick(rng, colours), _pick(rng, sizes))
        return Signature(kind, (look,), None, background, 1 if kind == "single" else _pick(rng, (2, 3, 4)))
    relation = _pick(rng, RELATIONS) if kind == "relation" else None
    return Signature(kind, _draw_two(rng, colours), relation, background, 2)


def _draw_two(rng: random.Random, colours: Sequence[str]) -> tuple[Look, Look]:
    """Two looks of different colours; the shapes are the same one time in 12, and never are both large."""
    first = Look(_pick(rng, SHAPES), _pick(rng, colours), _pick(rng, _TWO_SIZES))
    shape = _pick(rng, SHAPES)
    if shape == first.shape and rng.random() < 0.5:
        shape = _pick(rng, [s for s in SHAPES if s != shape])
    colour = _pick(rng, [c for c in colours if c != first.colour])
    size = _pick(rng, _TWO_SIZES)
    return first, Look(shape, colour, "medium" if size == first.size == "large" else size)


def _place_single(look: Look, rng: random.Random) -> SceneObject:
    x, y = _CENTRE + _between(rng, -4, 4), _CENTRE + _between(rng, -4, 4)
    return SceneObject(*look, x, y, _between(rng, *SIZES[look.size]))


def _place_count(signature: Signature, rng: random.Random) -> tuple[SceneObject, ...]:
    look = signature.looks[0]
    radius = _between(rng, *SIZES[look.size])
    spots = [[_CENTRE + step * _SPREAD for step in spot] for spot in _COUNT_SPOTS[signature.count]]
    jittered = [[value + _between(rng, -1.5, 1.5) for value in spot] for spot in spots]
    return tuple(SceneObject(*look, x, y, radius) for x, y in jittered)


def _place_two(signature: Signature, rng: random.Random) -> tuple[SceneObject, ...]:
    """Places the picture from left to right (or top to bottom), then restores the order of the caption."""
    picture = signature.picture()
    radii = [_between(rng, *SIZES[look.size]) for look in picture.looks]
    along = _positions_along(radii, rng)
    shift = _between(rng, -2, 2)
    across = [_CENTRE + shift + _between(rng, -2, 2) for _ in radii]  # at most 4 px apart
    xs, ys = (across, along) if picture.relation == "above" else (along, across)
    places = zip(picture.looks, xs, ys, radii, strict=True)
    objects = tuple(SceneObject(*look, x, y, radius) for look, x, y, radius in places)
    return objects if picture.looks == signature.looks else objects[::-1]


def _positions_along(radii: Sequence[float], rng: random.Random) -> tuple[float, float]:
    free = IMAGE_SIZE - 2 * _MARGIN - _GAP - 2 * sum(radii)
    gap = free * _between(rng, 0.1, 0.5)
    start = _MARGIN + (free - gap) * _between(rng, 0.3, 0.7)
    first = start + radii[0]
    return first, first + radii[0] + _GAP + gap + radii[1]
