"""Training of a language model of words and images, from recipe to a model that captions and draws."""

import json

import pytest
import torch

import visgen
from tests.pipelines.seed_models import CODES, LENGTH, tiny_renderer, tiny_tokenizer
from visgen.data.batch import Batch
from visgen.data.scenes import Scenes, caption
from visgen.errors import InputError
from visgen.evaluation.scenes.captions import items, score_captions, signature_of
from visgen.pipelines.seed_vocabulary import SeedVocabulary
from visgen.training import train
from visgen.training.seed_language import SeedLanguageObjective
from visgen.training.seed_sequences import CAPTION, END, FIRST, IMAGE, PADDING, SequencePlan, write_sequences

MODEL = {"hidden_size": 32, "depth": 1, "num_heads": 2, "mlp_size": 32, "max_length": 96}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    tiny_renderer().save_pretrained(folder / "renderer")
    return folder


def recipe(parts, output, steps, **options):
    made = {"schema": 1, "objective": "seed-language-model", "output": str(output), "steps": steps}
    every = {"log_every": 1, "sample_every": steps, "checkpoint_every": steps, "batch_size": 16}
    own = {"tokenizer": str(parts / "tokenizer"), "caption_scenes": 4, **options}
    rest = {"data": {"source": "scenes", "split": "train"}, "model": MODEL, "options": own}
    return {**made, **every, **rest, "optimizer": {"name": "muon", "lr": 1e-2, "muon_lr": 1e-2}}


def test_it_learns_and_exports_a_model(parts, tmp_path):
    options = {"renderer": str(parts / "renderer"), "drawing_scenes": 4, "sampling": {"guidance_scale": 2.0}}
    folder = train(recipe(parts, tmp_path, 40, **options))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rows, scores = [row for row in lines if "loss" in row], lines[-1]
    assert rows[-1]["caption"] < 0.7 * rows[0]["caption"]
    assert {"eval_caption_f1", "eval_caption_readable", "eval_adherence"} <= scores.keys()
    assert (folder / "samples" / "step_000040.png").is_file()
    pipe = visgen.load(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.sampling.guidance_scale == 2.0
    picture = Scenes("validation")[0]["image"].permute(1, 2, 0).numpy()
    assert pipe.caption([picture], question="describe this picture")[0]
    assert pipe.draw("a red circle", seed=0).images[0].size == (64, 64)


def test_a_tokenizer_that_decodes_by_itself_needs_no_renderer(tmp_path):
    made = recipe(tmp_path, tmp_path, 1, tokenizer="scenes-ar", caption_scenes=0, instructions=[])
    objective = SeedLanguageObjective.from_recipe(read(made), Scenes("train"))
    assert objective.draws
    assert objective.model.vocabulary.images.num_codes == 4096


def test_matrices_of_the_layers_are_muons(parts):
    objective = SeedLanguageObjective.from_recipe(read(recipe(parts, "x", 1)), Scenes("train"))
    muon = [n for n, p in objective.trained() if objective.matrices(n, p)]
    assert len(muon) == 7 * MODEL["depth"]
    assert not any("embed" in name or "lm_head" in name for name in muon)
    assert all(name.startswith("model.") for name, _ in objective.trained())


def test_weights_of_the_first_part(parts):
    batch = Scenes("train").batch(range(4))
    losses = []
    for weight in (1.0, 0.0):
        torch.manual_seed(0)
        objective = SeedLanguageObjective.from_recipe(
            read(recipe(parts, "x", 1, first_weight=weight, drawing=0.0)), Scenes("train")
        )
        losses.append(objective.loss(batch, 0, 7))
    assert losses[0]["caption"] == losses[1]["caption"]
    assert losses[0]["loss"] != losses[1]["loss"]
    assert torch.allclose(losses[1]["loss"], losses[1]["caption"], rtol=0.2)  # the end of sequence is in both


def test_sequences_hold_captions_and_images():
    words = SeedVocabulary.from_words(["a", "red", "ring", "describe"], CODES, LENGTH)
    images = words.images
    codes = [list(range(LENGTH))] * 40
    plan = SequencePlan(condition_dropout=0.5, instructions=("describe",))
    made = write_sequences(words, ["a red ring"] * 40, codes, plan, torch.Generator().manual_seed(0))
    assert made.ids.shape == made.kinds.shape
    text, span = (
        words.words(["a red ring"])[0],
        [images.begin, *range(images.first_code, images.first_code + LENGTH), images.end],
    )
    ask = words.words(["describe"])[0]
    wanted = {
        (*text, *span): [FIRST] * 4 + [IMAGE] * len(span) + [END],
        tuple(span): [FIRST] + [IMAGE] * len(span) + [PADDING],  # a caption might have followed
        (*span, *text): [FIRST] * (1 + len(span)) + [CAPTION] * 4,
        (*span, *ask, *text): [FIRST] * (1 + len(span)) + [PADDING] + [CAPTION] * 4,
    }
    seen = set()
    for ids, kinds in zip(made.ids.tolist(), made.kinds.tolist(), strict=True):
        length = ids.index(words.eos) + 1
        assert ids[0] == words.bos
        assert ids[length:] == [words.pad] * (len(ids) - length)
        assert set(kinds[length:]) <= {PADDING}
        body = tuple(ids[1 : length - 1])
        assert kinds[:length] == wanted[body]
        seen.add(body)
    assert seen == set(wanted)


def test_the_draws_of_an_image_do_not_depend_on_its_caption():
    words = SeedVocabulary.from_words(["a", "red", "ring"], CODES, LENGTH)
    codes = [[1] * LENGTH] * 6
    plan = SequencePlan(width=20)
    one, other = (
        write_sequences(words, texts, codes, plan, torch.Generator().manual_seed(3)).kinds
        for texts in (["a ring"] * 6, ["a"] + ["a ring"] * 5)
    )
    assert torch.equal(one[1:], other[1:])


@pytest.mark.parametrize("variant", [0, 1, 2, 3])
def test_true_captions_score_one(variant):
    scenes = [Scenes("validation", balanced=True)._scene(i) for i in range(24)]
    score = score_captions([caption(scene, variant) for scene in scenes], scenes)
    assert (score.f1, score.exact, score.readable) == (1.0, 1.0, 1.0)
    assert set(score.attributes.values()) == {1.0}


def test_what_a_wrong_caption_costs():
    scene = next(s for i in range(50) if (s := Scenes("validation")._scene(i)).kind == "single")
    look = scene.objects[0].look
    wrong = "blue" if look.colour != "blue" else "red"
    text = caption(scene).replace(look.colour, wrong, 1)
    score = score_captions([text], [scene])
    assert score.f1 == pytest.approx(0.5)  # object and size are wrong, count and background right
    assert score.attributes["object"] == 0.0
    assert score.attributes["count"] == score.attributes["background"] == score.attributes["relation"] == 1.0
    assert (score.exact, score.readable) == (0.0, 1.0)
    none = score_captions(["what a picture"], [scene])
    assert (none.precision, none.recall, none.f1, none.readable) == (0.0, 0.0, 0.0, 0.0)


def test_two_ways_to_say_one_picture():
    one = signature_of("a red circle above a blue square")
    other = signature_of("a blue square below a red circle")
    assert items(one) == items(other)
    assert items(one) != items(signature_of("a red circle below a blue square"))
    pair, told = (
        signature_of("a red circle and a blue ring"),
        signature_of("a red circle left of a blue ring"),
    )
    assert items(pair) == items(told)


def test_bad_recipes_are_refused(parts, tmp_path):
    for options, told in (
        ({"drawing": 2.0}, "drawing=2.0"),
        ({"first_weight": -1.0}, "first_weight=-1.0"),
        ({"renderer": str(tmp_path)}, "no config.json"),
        ({"tokenizer": "scenes-var"}, "max_length=96 is below the longest"),
        ({"words": ["two words"]}, "not one word"),
    ):
        with pytest.raises(InputError, match=told):
            train(recipe(parts, tmp_path / "out", 1, **options))


def test_captions_that_are_too_long_are_refused(parts):
    objective = SeedLanguageObjective.from_recipe(read(recipe(parts, "x", 1, text_length=2)), Scenes("train"))
    with pytest.raises(InputError, match="text_length leaves"):
        objective.loss(Scenes("train").batch(range(4)), 0, 0)


def test_data_without_captions_is_refused(parts):
    objective = SeedLanguageObjective.from_recipe(read(recipe(parts, "x", 1)), Scenes("train"))
    with pytest.raises(InputError, match="no captions"):
        objective.loss(Batch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)), 0, 0)


def read(mapping):
    from visgen.training.recipe import load_recipe

    return load_recipe(mapping)
