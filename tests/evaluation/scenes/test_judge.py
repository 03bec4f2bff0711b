"""The judge on hand-made detections: each attribute fails alone, for the reason it should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from visgen.data.scenes.scene import Look, Signature
from visgen.evaluation.scenes.checker import DetectedObject, DetectedScene
from visgen.evaluation.scenes.judge import ATTRIBUTES, Verdict, judge

CIRCLE = DetectedObject("circle", "red", "medium", 32, 16)
SQUARE = DetectedObject("square", "blue", "small", 32, 48)
ABOVE = Signature(
    "relation", (Look("circle", "red", "medium"), Look("square", "blue", "small")), "above", "white", 2
)


def scene(*objects: DetectedObject, background: str = "white") -> DetectedScene:
    return DetectedScene(objects, background)


def wrong(verdict: Verdict) -> set[str]:
    return {name for name in ATTRIBUTES if getattr(verdict, name) is False}


def test_all_right_whatever_the_order_of_detections() -> None:
    for objects in ((CIRCLE, SQUARE), (SQUARE, CIRCLE)):
        verdict = judge(scene(*objects), ABOVE)
        assert wrong(verdict) == set() and verdict.correct


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (scene(CIRCLE, replace(SQUARE, colour="green")), {"object", "colour"}),
        (scene(CIRCLE, replace(SQUARE, shape="star")), {"object", "shape"}),
        (scene(CIRCLE, replace(SQUARE, size="large")), {"size"}),
        (scene(CIRCLE, SQUARE, background="night"), {"background"}),
        (scene(replace(CIRCLE, y=48), replace(SQUARE, y=16)), {"relation"}),
        (scene(replace(CIRCLE, x=10), replace(SQUARE, x=50)), {"relation"}),  # further across than along
        (scene(CIRCLE, SQUARE, replace(SQUARE, x=10)), {"count"}),
        (
            scene(replace(CIRCLE, colour="blue"), replace(SQUARE, colour="red")),
            {"object", "colour"},
        ),  # swapped
        (scene(CIRCLE), {"object", "colour", "shape", "count", "relation", "size"}),
        (scene(), {"object", "colour", "shape", "count", "relation", "size"}),
    ],
)
def test_what_is_wrong_is_named(seen: DetectedScene, expected: set[str]) -> None:
    verdict = judge(seen, ABOVE)
    assert wrong(verdict) == expected and not verdict.correct


@pytest.mark.parametrize(
    ("relation", "right"), [("above", True), ("below", False), ("left of", False), ("right of", False)]
)
def test_relations_point_their_way(relation: str, right: bool) -> None:
    assert judge(scene(CIRCLE, SQUARE), replace(ABOVE, relation=relation)).relation is right


def test_a_pair_has_no_order() -> None:
    pair = replace(ABOVE, kind="pair", relation=None)
    for x in (10, 50):
        verdict = judge(scene(replace(CIRCLE, x=x, y=32), replace(SQUARE, x=60 - x, y=32)), pair)
        assert verdict.correct and verdict.relation is None


def test_a_count_asks_for_that_many_of_one_look() -> None:
    three = Signature("count", (Look("circle", "red", "medium"),), None, "white", 3)
    circles = [replace(CIRCLE, x=x) for x in (10, 30, 50)]
    assert judge(scene(*circles), three).correct
    assert wrong(judge(scene(*circles[:2]), three)) == {"object", "colour", "shape", "count", "size"}
    assert wrong(judge(scene(*circles, replace(CIRCLE, y=50)), three)) == {"count"}
    assert wrong(judge(scene(*circles[:2], SQUARE), three)) == {"object", "colour", "shape", "size"}


def test_many_detections_do_not_stall_the_search() -> None:
    four = Signature("count", (Look("circle", "red", "medium"),), None, "white", 4)
    crowd = [replace(CIRCLE, x=x, y=y) for x in range(0, 64, 8) for y in range(0, 64, 8)]
    assert wrong(judge(scene(*crowd), four)) == {"count"}
