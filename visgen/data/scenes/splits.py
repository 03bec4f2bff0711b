"""Which signatures belong to which split: two kinds of held-out combination, a stable hash for the rest."""

from __future__ import annotations

import hashlib

from visgen.data.scenes.scene import Signature
from visgen.data.scenes.vocabulary import INVERSE
from visgen.errors import InputError

SPLITS = ("train", "validation", "test_pairs", "test_relations")
# What a judge trains on: everything but the validation signatures; also the combinations that models never
# see, which it would deny otherwise. Not for models.
JUDGE = "judge"
VALIDATION_SHARE = 16  # one signature in 16

# (colour, shape): seen in neither train nor validation, though each colour and each shape is.
HELD_OUT_PAIRS = frozenset(
    {("purple", "star"), ("cyan", "heart"), ("orange", "ring"), ("pink", "square"), ("black", "triangle")}
)

_HELD_OUT = (
    ("heart", "above", "star"),
    ("ring", "above", "triangle"),
    ("triangle", "above", "heart"),
    ("star", "above", "ring"),
    ("square", "left of", "heart"),
    ("star", "left of", "circle"),
    ("ring", "left of", "square"),
    ("triangle", "left of", "star"),
)
# (shape, relation, shape), with the inverse reading of each: it is the same picture.
HELD_OUT_RELATIONS = frozenset(_HELD_OUT) | {(b, INVERSE[r], a) for a, r, b in _HELD_OUT}


def check_split(split: str) -> str:
    """Returns `split`, or raises InputError when there is no split of that name."""
    if split not in (*SPLITS, JUDGE):
        raise InputError(f"split={split!r} is not a split of the scenes; use one of {', '.join(SPLITS)}.")
    return split


def belongs(signature: Signature, split: str) -> bool:
    """Whether `split` may show a signature."""
    if split == JUDGE:
        return split_of(signature) != "validation"
    return split_of(signature) == split


def split_of(signature: Signature) -> str | None:
    """The only split that may show `signature`; None when it is held out twice and so belongs to none."""
    picture = signature.picture()
    new_pair = any((look.colour, look.shape) in HELD_OUT_PAIRS for look in picture.looks)
    new_relation = _has_held_out_relation(picture)
    if new_pair or new_relation:
        return None if new_pair and new_relation else "test_pairs" if new_pair else "test_relations"
    return "validation" if _bucket(picture) == 0 else "train"


def _has_held_out_relation(picture: Signature) -> bool:
    if picture.relation is None:
        return False
    first, second = picture.looks
    return (first.shape, picture.relation, second.shape) in HELD_OUT_RELATIONS


def _bucket(picture: Signature) -> int:
    looks = ";".join(map(",".join, picture.looks))
    text = f"{picture.kind}|{looks}|{picture.relation}|{picture.background}|{picture.count}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()[0] % VALIDATION_SHARE
