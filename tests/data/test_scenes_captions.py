"""Captions determine the scene's attributes exactly, in a closed vocabulary."""

import collections

import pytest

from visgen.data.scenes import SPLITS, Scene, SceneObject, caption, parse_caption, sample_scene, words
from visgen.data.scenes.captions import MAX_WORDS
from visgen.data.scenes.vocabulary import INVERSE


@pytest.fixture(scope="module")
def samples():
    """20 000 (scene, variant, caption)."""
    scenes = [sample_scene(split, i) for split in SPLITS for i in range(1000)]
    return [(s, v, caption(s, v)) for s in scenes for v in range(5)]


def meaning(scene):
    """All that a caption may say, the same for the two orders of a relation."""
    return scene.signature if scene.kind == "pair" else scene.signature.picture()


def test_canonical_wording():
    red, blue = (
        SceneObject("circle", "red", "medium", 32, 18, 11.0),
        SceneObject("square", "blue", "medium", 32, 46, 11.0),
    )
    assert caption(Scene("relation", (red, blue), "above", "white")) == "a red circle above a blue square"
    assert (
        caption(Scene("pair", (red, blue), None, "gray"))
        == "a red circle and a blue square on a gray background"
    )
    big = SceneObject("star", "orange", "large", 32, 32, 16.0)
    assert caption(Scene("single", (big,), None, "sunset")) == "a large orange star at sunset"
    star = SceneObject("star", "orange", "medium", 32, 32, 11.0)
    assert caption(Scene("single", (star,), None, "white")) == "an orange star"
    assert caption(Scene("count", (star,) * 3, None, "white")) == "three orange stars"


def test_one_caption_has_one_meaning(samples):
    meanings = collections.defaultdict(set)
    for scene, _, text in samples:
        meanings[text].add(meaning(scene))
    assert all(len(found) == 1 for found in meanings.values())


def test_captions_parse_back_to_their_scene(samples):
    for scene, _, text in samples:
        said, signature = parse_caption(text), scene.signature
        looks = [look._asdict() for look in signature.looks]
        if said["relation"] != signature.relation:
            assert said["relation"] == INVERSE[signature.relation]
            looks.reverse()
        assert said["objects"] == looks
        assert (said["kind"], said["background"], said["count"]) == (
            scene.kind,
            scene.background,
            scene.count,
        )


def test_words_are_closed_and_all_used(samples):
    used = {word for _, _, text in samples for word in text.split()}
    assert used == set(words()) and list(words()) == sorted(used)
    assert max(len(text.split()) for _, _, text in samples) <= MAX_WORDS


def test_variants_are_deterministic_and_vary():
    scene = next(s for s in (sample_scene("train", i) for i in range(99)) if s.kind == "relation")
    texts = [caption(scene, variant) for variant in range(60)]
    assert texts == [caption(scene, variant) for variant in range(60)]
    assert len(set(texts)) > 20


def test_shares_of_the_options(samples):
    varied = [(s, text) for s, variant, text in samples if variant > 0]
    relation = [(s, parse_caption(text)) for s, text in varied if s.kind == "relation"]
    assert 0.3 < sum(said["relation"] != s.relation for s, said in relation) / len(relation) < 0.4
    white = [text for s, text in varied if s.background == "white"]
    assert 0.25 < sum("white" in text for text in white) / len(white) < 0.35


def test_every_other_background_is_named(samples):
    assert all(
        parse_caption(t)["background"] == s.background for s, _, t in samples if s.background != "white"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "circle",
        "a red dog",
        "red circle",
        "a red circle above",
        "two red circle",
        "a red circle above two stars",
        "a huge tiny red circle",
        "five red circles",
        "a red circle in a forest",
        "a red circle and a star and a ring",
    ],
)
def test_other_sentences_do_not_parse(text):
    assert parse_caption(text) is None


def test_parsing_forgives_case_space_and_full_stop():
    assert parse_caption(" A red  Circle. ") == parse_caption("a red circle")
