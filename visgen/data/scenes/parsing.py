"""Reading captions back: the inverse of `captions`, for scoring prompts that people write."""

from __future__ import annotations

from typing import Any

from visgen.data.scenes.vocabulary import (
    ARTICLES,
    BACKGROUND_PHRASES,
    COLOURS,
    COUNT_WORDS,
    DEFAULT_BACKGROUND,
    DEFAULT_SIZE,
    PAIR_PHRASES,
    PREFIXES,
    RELATION_PHRASES,
    SHAPES,
    SIZE_WORDS,
    plural,
)

_BACKGROUNDS = {phrase: name for name, row in BACKGROUND_PHRASES.items() for phrase in row}
_LINKS: dict[str, str | None] = {phrase: name for name, row in RELATION_PHRASES.items() for phrase in row}
_LINKS |= dict.fromkeys(PAIR_PHRASES, None)
_LONGEST_FIRST = sorted(_LINKS, key=len, reverse=True)  # "to the left of" before "left of"
_COUNTS = {word: number for number, row in COUNT_WORDS.items() for word in row}
_SIZES = {word: name for name, row in SIZE_WORDS.items() for word in row}
_PLURALS = {plural(shape): shape for shape in SHAPES}


def parse_caption(text: str) -> dict[str, Any] | None:
    """What a caption says, defaults filled in; None when it is not a sentence of the scenes world.

    Returns:
        `kind`, `objects` (one dict of `shape`, `colour`, `size` per named object, in the order named),
        `relation` (of the first to the second named, else None), `background` and `count`.
    """
    body, background = _split_background(" ".join(text.lower().rstrip(". ").split()))
    for prefix in PREFIXES:
        body = body.removeprefix(prefix + " ")
    first, link, second = _split_link(body)
    if link is not None:
        objects = [_parse_one(first), _parse_one(second)]
        kind, relation, count = ("relation" if _LINKS[link] else "pair"), _LINKS[link], 2
    else:
        kind, relation = "single", None
        objects, count = [_parse_one(body)], 1
        if objects[0] is None:
            (look, count), kind = _parse_several(body), "count"
            objects = [look]
    if None in objects:
        return None
    return {"kind": kind, "objects": objects, "relation": relation, "background": background, "count": count}


def _split_background(text: str) -> tuple[str, str]:
    for phrase, name in _BACKGROUNDS.items():
        if text.endswith(" " + phrase):
            return text.removesuffix(" " + phrase), name
    return text, DEFAULT_BACKGROUND


def _split_link(text: str) -> tuple[str, str | None, str]:
    for phrase in _LONGEST_FIRST:
        first, found, second = text.partition(f" {phrase} ")
        if found:
            return first, phrase, second
    return text, None, ""


def _parse_one(text: str) -> dict[str, str] | None:
    article, _, name = text.partition(" ")
    return _look(name.split()) if article in ARTICLES else None


def _parse_several(text: str) -> tuple[dict[str, str] | None, int]:
    number, _, name = text.partition(" ")
    parts = name.split()
    if number not in _COUNTS or not parts or parts[-1] not in _PLURALS:
        return None, 0
    return _look([*parts[:-1], _PLURALS[parts[-1]]]), _COUNTS[number]


def _look(parts: list[str]) -> dict[str, str] | None:
    size = _SIZES.get(parts[0]) if len(parts) == 3 else DEFAULT_SIZE
    if size is None or len(parts) not in (2, 3) or parts[-2] not in COLOURS or parts[-1] not in SHAPES:
        return None
    return {"shape": parts[-1], "colour": parts[-2], "size": size}
