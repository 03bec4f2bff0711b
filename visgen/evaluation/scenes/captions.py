"""How right captions of scenes are: attributes said against attributes there, as precision, recall and F1.

The items of a scene are what its canonical picture holds (`Signature.picture`, so "A above B" equals "B below
A"): each object (colour and shape), its size, the relation of two objects, the number of objects, and the
background. What a caption leaves out has its default (medium, white), which counts as said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from visgen.data.scenes.parsing import parse_caption
from visgen.data.scenes.scene import Look, Scene, Signature

ATTRIBUTES = ("object", "size", "relation", "count", "background")
Item = tuple[Hashable, ...]


@dataclass(frozen=True)
class CaptionScore:
    """Scores of a set of captions, fractions of 1.

    Attributes:
        precision, recall, f1: over all items of all captions together.
        exact: captions with every item right and none too many.
        readable: captions that are sentences of the scenes world; the others say nothing.
        attributes: F1 of each attribute.
        count: number of captions.
    """

    precision: float
    recall: float
    f1: float
    exact: float
    readable: float
    attributes: dict[str, float]
    count: int


def items(signature: Signature) -> Counter[Item]:
    """The items of a scene, each with the attribute first; equal ones counted."""
    picture = signature.picture()
    names = [(look.colour, look.shape) for look in picture.looks]
    found: list[Item] = [("object", *name) for name in names]
    found += [("size", *name, look.size) for name, look in zip(names, picture.looks, strict=True)]
    if picture.relation is not None:
        found.append(("relation", names[0], picture.relation, names[1]))
    found += [("count", picture.count), ("background", picture.background)]
    return Counter(found)


def signature_of(caption: str) -> Signature | None:
    """What a caption says; None when it is no sentence of the scenes world."""
    said = parse_caption(caption)
    if said is None:
        return None
    looks = tuple(Look(**look) for look in said["objects"])
    return Signature(said["kind"], looks, said["relation"], said["background"], said["count"])


def score_captions(captions: Sequence[str], scenes: Sequence[Scene]) -> CaptionScore:
    """Score one caption per scene.

    Raises:
        ValueError: other numbers of both, or none.
    """
    there = [items(scene.signature) for scene in scenes]
    signatures = [signature_of(caption) for caption in captions]
    said = [Counter() if one is None else items(one) for one in signatures]
    pairs = list(zip(said, there, strict=True))
    if not pairs:
        raise ValueError("no captions to score")
    right = sum((a & b for a, b in pairs), Counter[Item]())
    told, wanted = sum(said, Counter[Item]()), sum(there, Counter[Item]())
    precision, recall = _share(right, told), _share(right, wanted)
    return CaptionScore(
        precision=precision,
        recall=recall,
        f1=_f1(right, told, wanted),
        exact=sum(a == b for a, b in pairs) / len(pairs),
        readable=sum(one is not None for one in signatures) / len(pairs),
        attributes={name: _f1(*(_only(name, one) for one in (right, told, wanted))) for name in ATTRIBUTES},
        count=len(pairs),
    )


def _only(attribute: str, counts: Counter[Item]) -> Counter[Item]:
    return Counter({item: number for item, number in counts.items() if item[0] == attribute})


def _share(part: Counter[Item], whole: Counter[Item]) -> float:
    return part.total() / whole.total() if whole else 0.0


def _f1(right: Counter[Item], told: Counter[Item], wanted: Counter[Item]) -> float:
    """Harmonic mean of precision and recall; 1 where there is nothing to say and nothing is said."""
    total = told.total() + wanted.total()
    return 2 * right.total() / total if total else 1.0
