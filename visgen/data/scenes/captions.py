"""Captions: a canonical sentence (variant 0) and endless paraphrases that say exactly the same."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from visgen.data.scenes.scene import Look, Scene, Signature
from visgen.data.scenes.vocabulary import (
    ARTICLES,
    BACKGROUND_PHRASES,
    COLOURS,
    COUNT_WORDS,
    DEFAULT_BACKGROUND,
    DEFAULT_SIZE,
    INVERSE,
    PAIR_PHRASES,
    PREFIXES,
    RELATION_PHRASES,
    SHAPES,
    SIZE_WORDS,
    plural,
)

MAX_WORDS = 22

_SWAP = 0.35  # chance of "B below A" for "A above B"
_SAY_WHITE = 0.3  # chance of naming the default background
_SAY_MEDIUM = 0.1  # chance of naming the default size
_PREFIX = 0.3


def caption(scene: Scene, variant: int = 0) -> str:
    """Says what a scene shows; what is left unsaid has its default (white background, medium size).

    Args:
        scene: the ground truth.
        variant: 0 gives the canonical sentence, any other value one of many paraphrases, always the same one.
    """
    if variant == 0:
        return _sentence(scene.signature, _Canonical())
    place = scene.objects[0]
    return _sentence(scene.signature, _Chosen(f"{variant}:{place.x}:{place.y}"))


def words() -> tuple[str, ...]:
    """Every word a caption can contain, sorted."""
    phrases: set[str] = {*ARTICLES, *PREFIXES, *COLOURS, *SHAPES, *map(plural, SHAPES), *PAIR_PHRASES}
    for table in (SIZE_WORDS, RELATION_PHRASES, COUNT_WORDS, BACKGROUND_PHRASES):
        phrases.update(phrase for row in table.values() for phrase in row)
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


class _Canonical:
    """Always the first wording, never an option."""

    def pick(self, options: Sequence[str]) -> str:
        return options[0]

    def maybe(self, chance: float) -> bool:
        return False


class _Chosen:
    """Wordings drawn from a text key."""

    def __init__(self, key: str) -> None:
        self._random = random.Random(key).random

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self._random() * len(options))]

    def maybe(self, chance: float) -> bool:
        return self._random() < chance


def _sentence(signature: Signature, wording: _Canonical | _Chosen) -> str:
    parts = [wording.pick(PREFIXES)] if wording.maybe(_PREFIX) else []
    parts.extend(_subject(signature, wording))
    if signature.background != DEFAULT_BACKGROUND or wording.maybe(_SAY_WHITE):
        parts.append(wording.pick(BACKGROUND_PHRASES[signature.background]))
    return " ".join(parts)


def _subject(signature: Signature, wording: _Canonical | _Chosen) -> Iterable[str]:
    if signature.kind == "single":
        return (_one(signature.looks[0], wording),)
    if signature.kind == "count":
        return (_several(signature, wording),)
    (first, second), relation = signature.looks, signature.relation
    if relation is None:
        return _one(first, wording), wording.pick(PAIR_PHRASES), _one(second, wording)
    if wording.maybe(_SWAP):
        first, second, relation = second, first, INVERSE[relation]
    return _one(first, wording), wording.pick(RELATION_PHRASES[relation]), _one(second, wording)


def _one(look: Look, wording: _Canonical | _Chosen) -> str:
    name = f"{_size(look, wording)}{look.colour} {look.shape}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _several(signature: Signature, wording: _Canonical | _Chosen) -> str:
    look = signature.looks[0]
    number = wording.pick(COUNT_WORDS[signature.count])
    return f"{number} {_size(look, wording)}{look.colour} {plural(look.shape)}"


def _size(look: Look, wording: _Canonical | _Chosen) -> str:
    if look.size == DEFAULT_SIZE and not wording.maybe(_SAY_MEDIUM):
        return ""
    return wording.pick(SIZE_WORDS[look.size]) + " "
