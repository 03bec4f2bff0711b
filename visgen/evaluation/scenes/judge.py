"""Does a picture show what its prompt says? Pure functions of what was seen and asked.

After GenEval (arXiv 2310.11513), on a world where nothing is ambiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from visgen.data.scenes.scene import Look, Signature
from visgen.evaluation.scenes.checker import DetectedObject, DetectedScene

ATTRIBUTES = ("object", "colour", "shape", "count", "relation", "size", "background")
_TOWARDS = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}  # of the first, (x, y)


@dataclass(frozen=True)
class Verdict:
    """What is right in one picture; None where the prompt does not ask for it.

    Attributes:
        object: every named object is there in its shape and colour.
        colour, shape, size: those of every named object, each matched to the detection that fits it best.
        count: as many objects as asked, not one more.
        relation: the first lies where the relation says, further along it than across it.
        background: as asked, the default one included.
    """

    object: bool
    colour: bool
    shape: bool
    count: bool
    relation: bool | None
    size: bool
    background: bool

    @property
    def correct(self) -> bool:
        """Whether everything that the prompt says is right."""
        return all(getattr(self, name) is not False for name in ATTRIBUTES)


def judge(seen: DetectedScene, asked: Signature) -> Verdict:
    """Compare a picture with what its prompt says.

    The order of an unordered pair ("a red circle and a blue star") is not judged; nothing else is forgiven.
    """
    looks = asked.looks * asked.count if asked.kind == "count" else asked.looks
    found = match(looks, seen.objects)
    pairs = list(zip(looks, found, strict=True))
    return Verdict(
        object=all(one is not None and (one.shape, one.colour) == look[:2] for look, one in pairs),
        colour=all(one is not None and one.colour == look.colour for look, one in pairs),
        shape=all(one is not None and one.shape == look.shape for look, one in pairs),
        count=len(seen.objects) == asked.count,
        relation=None if asked.relation is None else _related(found, asked.relation),
        size=all(one is not None and one.size == look.size for look, one in pairs),
        background=seen.background == asked.background,
    )


def match(looks: Sequence[Look], objects: Sequence[DetectedObject]) -> list[DetectedObject | None]:
    """The detection of each look, None where there are too few; together they agree in most attributes."""
    candidates: list[DetectedObject | None] = [*objects[:6], *[None] * len(looks)]  # 6: bounds the search
    ways = permutations(range(len(candidates)), len(looks))
    best = max(ways, key=lambda way: sum(_agreement(looks[i], candidates[k]) for i, k in enumerate(way)))
    return [candidates[k] for k in best]


def _agreement(look: Look, one: DetectedObject | None) -> int:
    """Shape and colour weigh more than size; any detection is better than none."""
    if one is None:
        return 0
    return 1 + 4 * (one.shape == look.shape) + 4 * (one.colour == look.colour) + (one.size == look.size)


def _related(found: Sequence[DetectedObject | None], relation: str) -> bool:
    first, second = found
    if first is None or second is None:
        return False
    x, y = first.x - second.x, first.y - second.y
    dx, dy = _TOWARDS[relation]
    along, across = (x * dx, y) if dx else (y * dy, x)
    return along > abs(across)
