"""Sampling and splits: determinism, disjointness, geometry."""

import collections
import itertools

import pytest

from visgen.data.scenes import RELATIONS, SHAPES, SIZES, SPLITS, sample_scene
from visgen.data.scenes.splits import HELD_OUT_PAIRS, HELD_OUT_RELATIONS, split_of
from visgen.data.scenes.vocabulary import BACKGROUNDS, COLOURS, FORBIDDEN, INVERSE
from visgen.errors import InputError

COUNT = {"train": 4000, "validation": 1000, "test_pairs": 1000, "test_relations": 600}


@pytest.fixture(scope="module")
def scenes():
    return {split: [sample_scene(split, i) for i in range(count)] for split, count in COUNT.items()}


@pytest.fixture(scope="module")
def everything(scenes):
    return list(itertools.chain.from_iterable(scenes.values()))


def shape_relations(scene):
    """Every (shape, relation, shape) a picture shows, whatever its kind calls it."""
    if scene.kind not in ("relation", "pair"):
        return set()
    first, second = (o.shape for o in scene.objects)
    relation = scene.relation or "left of"
    return {(first, relation, second), (second, INVERSE[relation], first)}


def test_a_scene_depends_on_split_and_index_alone(scenes):
    for split, known in scenes.items():
        assert [sample_scene(split, i) for i in (7, 3, 99)] == [known[i] for i in (7, 3, 99)]
    assert len(set(scenes["train"])) == COUNT["train"]
    assert sample_scene("train", 10**12) == sample_scene("train", 10**12)


def test_sampling_is_frozen():
    """A change here changes every trained model's training set: do it knowingly."""
    scene = sample_scene("train", 0).to_dict()
    thing = scene.pop("objects")[0]
    assert scene == {"kind": "single", "relation": None, "background": "night", "count": 1}
    assert (thing["shape"], thing["colour"], thing["size"]) == ("triangle", "cyan", "small")
    assert thing["x"] == pytest.approx(35.61979415574217, abs=1e-9)


def test_no_signature_and_no_picture_lies_in_two_splits(scenes):
    for view in (lambda s: s.signature, lambda s: s.signature.picture()):
        sets = [{view(scene) for scene in scenes[split]} for split in SPLITS]
        for one, other in itertools.combinations(sets, 2):
            assert not one & other
    assert all(split_of(s.signature) == split for split in SPLITS for s in scenes[split])


def test_held_out_pairs_are_only_in_their_split(scenes):
    def held_out(scene):
        return {(o.colour, o.shape) for o in scene.objects} & HELD_OUT_PAIRS

    for split in ("train", "validation", "test_relations"):
        assert not any(held_out(s) for s in scenes[split])
    assert all(held_out(s) for s in scenes["test_pairs"])
    assert set().union(*map(held_out, scenes["test_pairs"])) == HELD_OUT_PAIRS


def test_held_out_relations_are_only_in_their_split(scenes):
    for split in ("train", "validation", "test_pairs"):
        assert not any(shape_relations(s) & HELD_OUT_RELATIONS for s in scenes[split])
    assert all(
        s.kind == "relation" and shape_relations(s) <= HELD_OUT_RELATIONS for s in scenes["test_relations"]
    )
    assert set().union(*map(shape_relations, scenes["test_relations"])) == HELD_OUT_RELATIONS


def test_the_obvious_prompts_are_trained_on():
    obvious = {
        ("red", "circle"),
        ("blue", "square"),
        ("yellow", "star"),
        ("green", "triangle"),
        ("red", "heart"),
    }
    assert not obvious & HELD_OUT_PAIRS
    assert ("circle", "above", "square") not in HELD_OUT_RELATIONS
    assert all((b, INVERSE[r], a) in HELD_OUT_RELATIONS for a, r, b in HELD_OUT_RELATIONS)


def test_train_shows_every_part_and_the_planned_mix(scenes):
    train = scenes["train"]
    kinds = collections.Counter(s.kind for s in train)
    shares = {"single": 0.25, "relation": 0.45, "pair": 0.10, "count": 0.20}
    assert all(abs(kinds[kind] / len(train) - share) < 0.03 for kind, share in shares.items())
    assert {s.background for s in train} == set(BACKGROUNDS)
    assert {(o.colour, o.shape) for s in train for o in s.objects} == {
        pair for pair in itertools.product(COLOURS, SHAPES) if pair not in HELD_OUT_PAIRS
    }
    assert {s.relation for s in train} == {None, *RELATIONS}
    assert {s.count for s in train if s.kind == "count"} == {2, 3, 4}


def test_objects_keep_to_the_canvas_and_apart(everything):
    for scene in everything:
        for o in scene.objects:
            assert o.radius + 1 <= min(o.x, o.y) and max(o.x, o.y) + o.radius + 1 <= 64
            low, high = SIZES[o.size]
            assert low <= o.radius <= high
        for a, b in itertools.combinations(scene.objects, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) - a.radius - b.radius >= 2


def test_relations_are_true_and_clear(everything):
    for scene in everything:
        if scene.kind not in ("relation", "pair"):
            continue
        a, b = scene.objects
        relation = scene.relation or "left of"
        along, across = (b.y - a.y, b.x - a.x) if relation in ("above", "below") else (b.x - a.x, b.y - a.y)
        assert along * (1 if relation in ("above", "left of") else -1) >= 4 * abs(across) - 1e-6 >= -1e-6
        assert abs(across) <= 4 and abs(along) >= 17
        assert a.colour != b.colour and (a.size, b.size) != ("large", "large")


def test_counts_are_of_identical_objects(everything):
    for scene in everything:
        if scene.kind == "count":
            assert len({(o.look, o.radius) for o in scene.objects}) == 1
            assert scene.objects[0].size != "large"


def test_no_object_vanishes_on_its_background(everything):
    assert not any(o.colour in FORBIDDEN[s.background] for s in everything for o in s.objects)


@pytest.mark.parametrize("split, index, word", [("test", 0, "validation"), ("train", -1, "index=-1")])
def test_bad_input_says_what_works(split, index, word):
    with pytest.raises(InputError, match=word):
        sample_scene(split, index)
