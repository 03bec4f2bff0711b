"""Questions about scenes, each with one short answer that the scene itself gives.

Colour, shape and size of one object, which the question tells apart by its other attributes or its place;
numbers; what one object is to another; the background; and yes or no. What a held-out split keeps back
(`splits`) is kept back here too: no question of another split is wrong only because a combination is new.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from visgen.data.scenes.scene import Scene, SceneObject
from visgen.data.scenes.splits import HELD_OUT_PAIRS, HELD_OUT_RELATIONS
from visgen.data.scenes.vocabulary import (
    ARTICLES,
    BACKGROUNDS,
    COLOURS,
    FORBIDDEN,
    INVERSE,
    RELATIONS,
    SHAPES,
    SIZES,
    plural,
)
from visgen.errors import InputError

T = TypeVar("T")

NUMBERS = ("one", "two", "three", "four")
RELATION_ANSWERS = {"above": "above", "below": "below", "left of": "left", "right of": "right"}
# The answers to each kind of question
ANSWERS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "size": tuple(SIZES),
    "count": NUMBERS,
    "relation": tuple(RELATION_ANSWERS.values()),
    "background": tuple(BACKGROUNDS),
    "yes/no": ("yes", "no"),
}
QUESTION_KINDS = tuple(ANSWERS)

_PHRASES = {"above": "above", "below": "below", "left of": "to the left of", "right of": "to the right of"}
_PLACES = {"left of": ("on the left", "on the right"), "above": ("at the top", "at the bottom")}
_TEMPLATES = {
    "colour": ("what colour {be} the {name}?", "which colour {do} the {name} have?"),
    "shape": ("what shape {be} the {name}?", "which shape {do} the {name} have?"),
    "size": ("what size {be} the {name}?", "how large {be} the {name}?"),
    "count": ("how many {name} are there?", "how many {name} do you see?"),
    "relation": ("where is the {a} relative to the {b}?", "where is the {a} seen from the {b}?"),
    "background": ("what is the background?", "which background does the picture have?"),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one scene.

    Attributes:
        kind: a name of `QUESTION_KINDS`.
        text: the question, in words of `question_words()`.
        answer: one of `ANSWERS[kind]`.
    """

    kind: str
    text: str
    answer: str


def question_words() -> tuple[str, ...]:
    """Every word that questions and answers can hold, sorted and without question marks."""
    texts = [*ARTICLES, *COLOURS, *SHAPES, *map(plural, SHAPES), *_PHRASES.values(), "object objects"]
    texts += [answer for row in ANSWERS.values() for answer in row]
    texts += [place for row in _PLACES.values() for place in row]
    for row in _TEMPLATES.values():
        texts += [text.format(be="is are", do="does do", name="", a="", b="") for text in row]
    return tuple(sorted({word for text in texts for word in text.replace("?", " ").split()}))


def ask(scene: Scene, kind: str, variant: int, sizes: bool = True) -> Question | None:
    """One question about a scene; None when the scene has no answer of that kind (a relation of one object).

    Args:
        scene: what is asked about.
        kind: a name of `QUESTION_KINDS`.
        variant: chooses what is asked and how, always the same; yes and no are equally often true.
        sizes: whether sizes may be asked for; those of `shrunk` scenes would mislead.

    Raises:
        InputError: an unknown kind.
    """
    if kind not in ANSWERS:
        raise InputError(f"kind={kind!r} is no kind of question; use one of {', '.join(QUESTION_KINDS)}")
    if kind == "size" and not sizes:
        return None
    draw = _Draw(f"{kind}:{variant}:{scene.objects[0].x}:{scene.objects[0].y}", sizes)
    return _ASKERS[kind](scene, draw)


def ask_several(
    scene: Scene, count: int, variant: int, kinds: Sequence[str] = QUESTION_KINDS, sizes: bool = True
) -> list[Question]:
    """`count` questions about a scene, their kinds as even as the scene allows.

    Args:
        scene: what is asked about.
        count: how many; a small scene may be asked the same thing twice.
        variant, sizes: as for `ask`.
        kinds: what may be asked.

    Raises:
        InputError: unknown kinds, or none that the scene answers.
    """
    draw = _Draw(f"several:{variant}:{scene.objects[0].x}:{scene.objects[0].y}")
    asked: list[Question] = []
    while len(asked) < count:
        order = draw.shuffled(kinds)
        made = [ask(scene, kind, variant * 1000 + len(asked) + k, sizes) for k, kind in enumerate(order)]
        asked += (found := [one for one in made if one is not None])
        if not found:
            raise InputError(f"kinds={list(kinds)!r}: a scene of kind {scene.kind!r} answers none of them")
    return asked[:count]


class _Draw:
    """Choices drawn from a text key. Only `random()` is promised to be the same in every Python version."""

    def __init__(self, key: str, sizes: bool = True) -> None:
        self._random, self.sizes = random.Random(key).random, sizes

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]

    def yes(self) -> bool:
        return self._random() < 0.5

    def shuffled(self, options: Sequence[T]) -> list[T]:
        return sorted(options, key=lambda _: self._random())


def _about(attribute: str) -> Callable[[Scene, _Draw], Question]:
    """Questions for one attribute of an object."""

    def asker(scene: Scene, draw: _Draw) -> Question:
        name, thing = draw.pick(list(_references(scene, attribute)))
        return Question(attribute, _worded(scene, attribute, name, draw), getattr(thing, attribute))

    return asker


def _worded(scene: Scene, kind: str, name: str, draw: _Draw) -> str:
    be, do = ("are", "do") if scene.kind == "count" else ("is", "does")
    return draw.pick(_TEMPLATES[kind]).format(be=be, do=do, name=name)


def _references(scene: Scene, hidden: str) -> Iterator[tuple[str, SceneObject]]:
    """Names of objects that do not tell the attribute `hidden`, each with an object that has the answer."""
    ending = "s" if scene.kind == "count" else ""
    if scene.kind in ("single", "count"):
        yield f"object{ending}", scene.objects[0]
    for thing in scene.objects[:1] if scene.kind == "count" else scene.objects:
        told = {
            "colour": thing.shape,
            "shape": f"{thing.colour} object",
            "size": f"{thing.colour} {thing.shape}",
        }[hidden]
        alike = [o for o in scene.objects if hidden != "colour" or o.shape == thing.shape]
        if len(alike) == 1 or scene.kind == "count" or hidden != "colour":  # two colours always differ
            yield f"{told}{ending}", thing
    yield from _by_place(scene)


def _by_place(scene: Scene) -> Iterator[tuple[str, SceneObject]]:
    """The two objects of a scene by where they stand."""
    if (relation := _relation(scene)) is None:
        return
    first, second = scene.objects
    if relation not in _PLACES:
        relation, first, second = INVERSE[relation], second, first
    for place, thing in zip(_PLACES[relation], (first, second), strict=True):
        yield f"object {place}", thing


def _relation(scene: Scene) -> str | None:
    """What the first object is to the second; a pair runs from left to right."""
    return "left of" if scene.kind == "pair" else scene.relation


def _ask_count(scene: Scene, draw: _Draw) -> Question:
    thing = draw.pick(scene.objects)
    shapes = plural(thing.shape)
    choices = {
        "objects": scene.objects,
        shapes: [o for o in scene.objects if o.shape == thing.shape],
        f"{thing.colour} objects": [o for o in scene.objects if o.colour == thing.colour],
        f"{thing.colour} {shapes}": [o for o in scene.objects if o.look[:2] == thing.look[:2]],
    }
    name = draw.pick(list(choices))
    return Question("count", _worded(scene, "count", name, draw), NUMBERS[len(choices[name]) - 1])


def _ask_relation(scene: Scene, draw: _Draw) -> Question | None:
    if (relation := _relation(scene)) is None:
        return None
    a, b = scene.objects
    if draw.yes():
        a, b, relation = b, a, INVERSE[relation]
    text = draw.pick(_TEMPLATES["relation"]).format(a=_full(a), b=_full(b))
    return Question("relation", text, RELATION_ANSWERS[relation])


def _ask_background(scene: Scene, draw: _Draw) -> Question:
    return Question("background", draw.pick(_TEMPLATES["background"]), scene.background)


def _ask_yes_no(scene: Scene, draw: _Draw) -> Question:
    makers = [_is_there, _is_it, _are_there] + ([_is_where] if _relation(scene) else []) * 2
    true = draw.yes()
    return Question("yes/no", draw.pick(makers)(scene, draw, true), "yes" if true else "no")


def _is_there(scene: Scene, draw: _Draw, true: bool) -> str:
    """Is there such an object? A wrong one differs from one that is there in its colour or its shape."""
    thing = draw.pick(scene.objects)
    colour, shape = thing.colour, thing.shape
    if not true:
        there = {(o.colour, o.shape) for o in scene.objects}
        others = [(c, shape) for c in _visible(scene)] if draw.yes() else [(colour, s) for s in SHAPES]
        colour, shape = draw.pick([one for one in others if one not in there | HELD_OUT_PAIRS])
    return f"is there {_article(colour)} {colour} {shape}?"


def _is_it(scene: Scene, draw: _Draw, true: bool) -> str:
    """Has an object this colour, or this size?"""
    attribute = draw.pick(("colour", "size") if draw.sizes else ("colour",))
    name, thing = draw.pick(list(_references(scene, attribute)))
    value = getattr(thing, attribute)
    if not true:
        pairs = HELD_OUT_PAIRS if attribute == "colour" else frozenset()
        values = _visible(scene) if attribute == "colour" else list(SIZES)
        value = draw.pick([v for v in values if v != value and (v, thing.shape) not in pairs])
    return f"{'are' if scene.kind == 'count' else 'is'} the {name} {value}?"


def _are_there(scene: Scene, draw: _Draw, true: bool) -> str:
    """Are there so many objects?"""
    number = NUMBERS[scene.count - 1]
    if not true:
        number = draw.pick([one for one in NUMBERS if one != number])
    return f"is there {number} object?" if number == "one" else f"are there {number} objects?"


def _is_where(scene: Scene, draw: _Draw, true: bool) -> str:
    """Is one object there, seen from the other?"""
    (a, b), relation = scene.objects, _relation(scene) or ""
    if draw.yes():
        a, b, relation = b, a, INVERSE[relation]
    if not true:
        others = [r for r in RELATIONS if r != relation and (a.shape, r, b.shape) not in HELD_OUT_RELATIONS]
        relation = draw.pick(others)
    return f"is the {_full(a)} {_PHRASES[relation]} the {_full(b)}?"


def _full(thing: SceneObject) -> str:
    return f"{thing.colour} {thing.shape}"


def _article(word: str) -> str:
    return ARTICLES[word[0] in "aeiou"]


def _visible(scene: Scene) -> list[str]:
    """Colours that an object on this background can have."""
    return [colour for colour in COLOURS if colour not in FORBIDDEN[scene.background]]


_ASKERS: dict[str, Callable[[Scene, _Draw], Question | None]] = {
    "colour": _about("colour"),
    "shape": _about("shape"),
    "size": _about("size"),
    "count": _ask_count,
    "relation": _ask_relation,
    "background": _ask_background,
    "yes/no": _ask_yes_no,
}
