"""Questions are answered by their scenes, are balanced, and hold back what the splits hold back."""

from collections import Counter

import numpy as np
import pytest

from visgen.data.scenes import (
    ANSWERS,
    IMAGE_SIZE,
    QUESTION_KINDS,
    Scene,
    SceneObject,
    SceneQuestions,
    Scenes,
    ask,
    ask_several,
    question_words,
    render,
    sample_scene,
    shrunk,
)
from visgen.data.scenes.splits import HELD_OUT_PAIRS, belongs
from visgen.errors import InputError

TWO = Scene(
    "relation",
    (
        SceneObject("circle", "red", "small", 20.0, 32.0, 8.0),
        SceneObject("star", "blue", "large", 44.0, 32.0, 16.0),
    ),
    "left of",
    "sea",
)


def every(scene, kind, tries=300, **options):
    """Question text → answer over many variants."""
    asked = [ask(scene, kind, variant, **options) for variant in range(tries)]
    return {one.text: one.answer for one in asked if one is not None}


def test_what_is_said_of_two_objects():
    colours = every(TWO, "colour")
    assert colours["what colour is the circle?"] == colours["which colour does the object on the left have?"]
    assert {name: colours[f"what colour is the {name}?"] for name in ("circle", "star")} == {
        "circle": "red",
        "star": "blue",
    }
    assert every(TWO, "shape")["what shape is the blue object?"] == "star"
    assert every(TWO, "size")["how large is the object on the right?"] == "large"
    assert every(TWO, "count") | {
        "how many objects are there?": "two",
        "how many stars do you see?": "one",
    } == every(TWO, "count")
    relations = every(TWO, "relation")
    assert relations["where is the red circle relative to the blue star?"] == "left"
    assert relations["where is the blue star seen from the red circle?"] == "right"
    assert set(every(TWO, "background").values()) == {"sea"}
    truths = every(TWO, "yes/no", 1000)
    assert truths["is there a red circle?"] == truths["are there two objects?"] == "yes"
    assert truths["is the red circle to the left of the blue star?"] == "yes"
    assert truths["is the red circle above the blue star?"] == "no"
    assert truths["is the circle red?"] == truths["is the object on the right large?"] == "yes"


def test_objects_of_one_shape_are_told_apart_by_their_places():
    rings = (SceneObject("ring", c, "medium", x, 32.0, 10.0) for c, x in (("red", 18.0), ("blue", 46.0)))
    same = Scene("pair", tuple(rings), None, "white")
    names = set(every(same, "colour"))
    assert not any("ring" in name for name in names)
    assert every(same, "colour")["what colour is the object on the left?"] == "red"
    assert every(same, "count")["how many rings are there?"] == "two"


def test_one_scene_gives_all_kinds_it_can_answer():
    single = next(s for i in range(50) if (s := sample_scene("train", i)).kind == "single")
    asked = ask_several(single, 6, 0)
    assert {one.kind for one in asked} == set(QUESTION_KINDS) - {"relation"}
    assert ask_several(single, 6, 0) == asked
    assert ask_several(single, 6, 1) != asked
    with pytest.raises(InputError, match="answers none of them"):
        ask_several(single, 2, 0, ("relation",))
    with pytest.raises(InputError, match="kind='smell'"):
        ask(single, "smell", 0)


def test_yes_is_as_frequent_as_no():
    scenes = [sample_scene("train", i) for i in range(600)]
    yes = np.mean([ask(scene, "yes/no", i).answer == "yes" for i, scene in enumerate(scenes)])
    assert abs(yes - 0.5) < 0.07  # 3.4 standard deviations


def test_words_cover_all_questions():
    words = set(question_words())
    for i in range(150):
        for one in ask_several(sample_scene("train", i), 7, i):
            assert one.answer in ANSWERS[one.kind]
            assert {*one.text.replace("?", "").split(), one.answer} <= words


def test_nothing_is_denied_because_it_is_held_out():
    for i in range(150):
        for one in (
            ask(sample_scene("train", i), "yes/no", i),
            ask(sample_scene("train", i), "yes/no", i + 1),
        ):
            assert not any(f" {colour} {shape}?" in one.text for colour, shape in HELD_OUT_PAIRS)


@pytest.mark.parametrize("small", [False, True])
def test_held_out_questions_are_balanced(small):
    asked = [SceneQuestions("validation", 140, small)[i] for i in range(0, 140)]
    kinds = Counter(one.question.kind for one in asked)
    assert set(kinds) == set(QUESTION_KINDS) - ({"size"} if small else set())
    assert max(kinds.values()) - min(kinds.values()) <= 1
    for kind in kinds:
        answers = Counter(one.question.answer for one in asked if one.question.kind == kind)
        assert set(answers) == set(ANSWERS[kind])
        assert max(answers.values()) - min(answers.values()) <= 1
    assert all(belongs(one.scene.signature, "validation") for one in asked)
    assert all(one.scene.is_small == small for one in asked)
    if small:
        assert not any(size in one.question.text for one in asked for size in ANSWERS["size"])


def test_the_set_does_not_depend_on_its_length():
    assert SceneQuestions("test_relations", 9)[8] == SceneQuestions("test_relations", 30)[8]
    answers = {
        one.question.answer for one in map(SceneQuestions("test_relations", 30).__getitem__, range(30))
    }
    assert "three" not in answers
    with pytest.raises(IndexError):
        SceneQuestions("validation", 3)[3]
    with pytest.raises(InputError, match="count=0"):
        SceneQuestions("validation", 0)


def test_larger_pictures_show_the_same():
    scenes = [sample_scene("train", i) for i in range(8)]
    large, usual = render(scenes, 192).float(), render(scenes).float()
    mean = large.unflatten(-1, (64, 3)).unflatten(-3, (64, 3)).mean((-1, -3))
    assert (mean - usual).abs().mean() < 0.5
    assert (mean - usual).abs().max() < 90  # at edges: areas there, and one distance here
    assert usual.shape[-1] == IMAGE_SIZE
    for size in (7, 5000, 64.0):
        with pytest.raises(InputError, match="size="):
            render(scenes, size)


def test_a_share_of_small_scenes():
    source = Scenes("train", small=0.25, size=32)
    small = [scene.is_small for scene in source.batch(range(200)).scenes]
    assert abs(np.mean(small) - 0.25) < 0.03
    assert source[0]["image"].shape == (3, 32, 32)
    scene = sample_scene("train", 3)
    assert [o.look for o in shrunk(scene).objects] == [o.look for o in scene.objects]
    assert not scene.is_small
    with pytest.raises(InputError, match="small=2"):
        Scenes("train", small=2)
