"""Scenes as data: what is drawn where, and the attribute signature that captions name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from visgen.data.scenes.vocabulary import INVERSE, SIZES


class Look(NamedTuple):
    """What a caption can say of one object."""

    shape: str
    colour: str
    size: str


@dataclass(frozen=True, slots=True)
class Signature:
    """All that a caption says of a scene; equal signatures differ only in jitter.

    Attributes:
        kind: "single", "relation", "pair" or "count".
        looks: one `Look` per named object (a count names one).
        relation: what `looks[0]` is to `looks[1]`, for kind "relation", else None.
        background: a key of `BACKGROUNDS`.
        count: number of objects drawn.
    """

    kind: str
    looks: tuple[Look, ...]
    relation: str | None
    background: str
    count: int

    def picture(self) -> Signature:
        """The one signature that stands for every way to name the same picture.

        "below" and "right of" are turned into "above" and "left of"; a pair is "left of".
        """
        if self.kind == "pair":
            return Signature("relation", self.looks, "left of", self.background, self.count)
        if self.relation in ("below", "right of"):
            return Signature(self.kind, self.looks[::-1], INVERSE[self.relation], self.background, self.count)
        return self


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object: its look, its centre and its radius in pixels (y grows downwards)."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def look(self) -> Look:
        """The part of the object that a caption can name."""
        return Look(self.shape, self.colour, self.size)


@dataclass(frozen=True, slots=True)
class Scene:
    """Ground truth of one picture.

    Attributes:
        kind: "single", "relation", "pair" or "count".
        objects: in the order in which the canonical caption names them; a pair runs left to right.
        relation: what `objects[0]` is to `objects[1]`, for kind "relation", else None.
        background: a key of `BACKGROUNDS`.
    """

    kind: str
    objects: tuple[SceneObject, ...]
    relation: str | None
    background: str

    @property
    def count(self) -> int:
        """Number of objects drawn."""
        return len(self.objects)

    @property
    def is_small(self) -> bool:
        """Whether objects are smaller than their size words say, as `shrunk` leaves them."""
        return any(o.radius < SIZES[o.size][0] for o in self.objects)

    @property
    def signature(self) -> Signature:
        """What captions say of the scene."""
        named = self.objects[:1] if self.kind == "count" else self.objects
        return Signature(self.kind, tuple(o.look for o in named), self.relation, self.background, self.count)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready types: the fields, `count` included, objects as a list of dicts."""
        return {
            "kind": self.kind,
            "objects": [asdict(o) for o in self.objects],
            "relation": self.relation,
            "background": self.background,
            "count": self.count,
        }
