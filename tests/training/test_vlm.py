"""Training of a small multimodal model: packed questions, PRIOR's weights, heads, from recipe to a model."""

import json
from pathlib import Path

import pytest
import torch

import visgen
from tests.pipelines.answer_models import SIZES, TOKENS, pictures, tiny_answer_model
from visgen.data.batch import Batch
from visgen.data.scenes import Question, SceneQuestions, Scenes, ask_several, render, sample_scene, shrunk
from visgen.data.scenes.vocabulary import COLOURS, SHAPES
from visgen.errors import InputError
from visgen.pipelines.vision_language import VisionLanguageSizes
from visgen.schema import read
from visgen.training import train
from visgen.training.prior import prior_weights, token_losses, weighted_mean
from visgen.training.recipe import load_recipe
from visgen.training.stream import build_source
from visgen.training.tokenizer import to_pixels
from visgen.training.vlm import VLMObjective, as_enlarged
from visgen.training.vlm_heads import FACTS, TowerHeads, patch_looks, scene_facts
from visgen.training.vlm_options import VLMOptions
from visgen.training.vlm_sequences import WIDTH, pack_questions, packed_logits, packed_mask

RECIPES = Path(__file__).parents[2] / "recipes"
ABLATIONS = sorted(RECIPES.glob("ablations/vlm-*.yaml"))
SIZE = SIZES["image_size"]


def recipe(output, steps, model=SIZES, **options):
    made = {"schema": 1, "objective": "scenes-vlm", "output": str(output), "steps": steps, "model": model}
    every = {"log_every": 1, "sample_every": steps, "checkpoint_every": steps, "batch_size": 8}
    data = {"source": "scenes", "split": "train", "size": SIZE, "small": 0.25}
    own = {"questions": 4, "validation_questions": 14, **options}
    optimizer = {"name": "muon", "lr": 1e-2, "muon_lr": 1e-2}
    return {**made, **every, "data": data, "options": own, "optimizer": optimizer}


def objective(**options):
    torch.manual_seed(0)
    data = Scenes("train", size=SIZE)
    return VLMObjective.from_recipe(load_recipe(recipe("x", 1, **options)), data), data.batch(range(4))


@pytest.fixture(scope="module")
def model():
    return tiny_answer_model()


def asked(count, questions):
    return [ask_several(sample_scene("train", i), questions, 0) for i in range(count)]


def test_a_packed_question_is_computed_as_if_alone(model):
    questions, images = asked(3, 5), pictures(3)
    packed = pack_questions(model.tokenizer, questions)
    pixels = torch.cat([model.inputs([image], ["a?"])["pixel_values"] for image in images])
    with torch.no_grad():
        together = packed_logits(model.model, pixels, packed.ids_BQW).logits
        for row, image in enumerate(images):
            for column, one in enumerate(questions[row]):
                inputs = model.inputs([image], [f"{one.text} {one.answer}"])
                alone = model.model(**inputs).logits[0, 1 + TOKENS :]
                assert torch.allclose(together[row, column, : len(alone)], alone, atol=1e-4, rtol=1e-4)
    assert together.std() > 0.1


def test_segments_do_not_see_each_other():
    mask = packed_mask(3, 2, 2)[0, 0].int()
    assert mask.tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 1, 1],
    ]


def test_what_is_packed(model):
    words = model.tokenizer
    one = [[Question("colour", "what colour is the circle?", "red")]]
    packed = pack_questions(words, one, 9)
    text = words.convert_ids_to_tokens(packed.ids_BQW[0, 0].tolist())
    assert text == ["what", "colour", "is", "the", "circle", "red", "</s>", "<pad>", "<pad>"]
    assert packed.answers_BQW[0, 0].tolist() == [False] * 5 + [True] * 2 + [False] * 2
    with pytest.raises(InputError, match=r"have 7 ids; options.width=6"):
        pack_questions(words, one, 6)
    with pytest.raises(InputError, match="does not know"):
        pack_questions(words, [[Question("colour", "what smell?", "red")]])


def test_all_questions_fit_the_default_width(model):
    longest = 0
    for i in range(120):
        questions = ask_several(sample_scene("train", i, "relation"), 8, i)
        packed = pack_questions(model.tokenizer, [questions])
        longest = max(longest, int((packed.ids_BQW != model.tokenizer.pad_token_id).sum(-1).max()))
    assert longest == WIDTH


def test_fewer_tokens_and_none(model):
    packed = pack_questions(model.tokenizer, asked(2, 3))
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        whole = packed_logits(model.model, pixels, packed.ids_BQW)
        assert torch.equal(packed_logits(model.model, pixels, packed.ids_BQW, TOKENS).logits, whole.logits)
        few = packed_logits(model.model, pixels, packed.ids_BQW, 4)
        blind = packed_logits(model.model, None, packed.ids_BQW)
    assert few.logits.shape == blind.logits.shape == whole.logits.shape
    assert not torch.allclose(few.logits, whole.logits)
    assert (blind.pooled, blind.patches) == (None, None)
    assert whole.patches.shape == (2, TOKENS, SIZES["vision_width"])


def test_priors_weights():
    torch.manual_seed(0)
    logits, ids = torch.randn(3, 6, 9), torch.randint(9, (3, 6))
    mask = torch.rand(3, 5) < 0.7
    losses = token_losses(logits, ids)
    assert torch.allclose(losses[1, 2], -logits[1, 2].log_softmax(-1)[ids[1, 3]])
    weights = prior_weights(logits, ids, mask, 1.0)
    assert weights[mask].mean() == pytest.approx(1.0)
    assert weights.min() >= 0
    assert weights[~mask].abs().max() == 0
    law = (-losses).exp()
    assert torch.allclose(weights[mask], ((1 - law) / (1 - law)[mask].mean())[mask])
    assert torch.allclose(prior_weights(logits + 7, ids, mask, 1.0), weights, atol=1e-5)
    plain = prior_weights(logits, ids, mask, 0.0)
    assert torch.equal(plain, mask.float())
    assert torch.allclose(weighted_mean(losses, plain, mask), losses[mask].mean())
    assert not prior_weights(logits.requires_grad_(), ids, mask, 2.0).requires_grad
    sure = torch.full((1, 3, 4), -50.0)
    sure[0, 0, 2] = sure[0, 1, 1] = 50.0
    known = prior_weights(sure, torch.tensor([[0, 2, 3]]), torch.ones(1, 2, dtype=torch.bool), 1.0)
    assert known.flatten().tolist() == pytest.approx([0.0, 2.0], abs=1e-4)
    with pytest.raises(InputError, match="alpha=-1"):
        prior_weights(logits, ids, mask, -1)


def test_what_the_heads_are_taught():
    scene = next(s for i in range(90) if (s := sample_scene("train", i)).relation == "below")
    a, b = scene.objects
    facts = set(scene_facts(scene))
    assert {f"{a.colour} {a.shape}", b.shape, a.size, "count 2", f"background {scene.background}"} <= facts
    assert f"{b.shape} above" in facts
    assert facts <= set(FACTS)
    assert not facts & {"small", "medium", "large"} - {a.size, b.size}
    small = shrunk(scene)
    assert not set(scene_facts(small)) & {"small", "medium", "large"}
    looks = patch_looks([scene, small], 12)
    row, column = int(a.y / 64 * 12), int(a.x / 64 * 12)
    assert looks["colour"][0].view(12, 12)[row, column] == 1 + COLOURS.index(a.colour)
    assert looks["shape"][1].view(12, 12)[row, column] == 1 + SHAPES.index(a.shape)
    assert looks["size"][0].max() > 0
    assert looks["size"][1].max() == 0
    assert (looks["shape"][0] > 0).sum() > (looks["shape"][1] > 0).sum() >= 2
    heads = TowerHeads(8, {"facts": 1.0, "looks": 0.0})
    told = heads(torch.randn(1, 8), torch.randn(1, 144, 8), [scene])
    assert set(told) == {"facts"}
    assert torch.equal(heads.total(told), told["facts"])


def test_losses_and_draws():
    one, batch = objective()
    values = one.loss(batch, 0, 7)
    assert set(values) == {"loss", "answer", "accuracy", "facts", "looks"}
    assert torch.equal(values["loss"], one.loss(batch, 0, 7)["loss"])
    assert not torch.equal(values["loss"], one.loss(batch, 0, 8)["loss"])
    bare, _ = objective(facts_weight=0.0, looks_weight=0.0, enlarged=0.0)
    values = bare.loss(batch, 0, 7)
    assert torch.equal(values["loss"].detach(), values["answer"])
    flex, _ = objective(token_counts=[1, 4, 16], token_weights=[1.0, 1.0, 2.0])
    drawn = [flex._count(torch.Generator().manual_seed(i)) for i in range(200)]
    assert drawn == [flex._count(torch.Generator().manual_seed(i)) for i in range(200)]
    assert set(drawn) == {1, 4, 16}
    assert 70 < drawn.count(16) < 130
    assert torch.isfinite(flex.loss(batch, 0, 7)["loss"])


def test_muon_gets_the_matrices_of_the_layers():
    one, _ = objective()
    muon = [name for name, parameter in one.trained() if one.matrices(name, parameter)]
    assert len(muon) == 6 * SIZES["vision_depth"] + 7 * SIZES["depth"] + 2
    assert not any("embed" in name or "head" in name for name in muon)
    tables = [name for name, parameter in one.trained() if one.no_decay(name, parameter)]
    assert any("position_embedding" in name for name in tables)


def test_small_pictures_look_small():
    pixels = to_pixels(Scenes("train", size=96).batch(range(2)).images)
    enlarged = as_enlarged(pixels)
    assert enlarged.shape == pixels.shape
    assert 0 < (enlarged - pixels).abs().mean() < 0.05
    few = to_pixels(Scenes("train").batch(range(1)).images)
    assert as_enlarged(few) is few


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(recipe(tmp_path_factory.mktemp("vlm") / "run", 20))


def test_it_learns_and_exports_a_model(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    rows, scores = [row for row in lines if "loss" in row], lines[-1]
    assert rows[-1]["answer"] < 0.7 * rows[0]["answer"]
    kinds = ("colour", "shape", "size", "count", "relation", "background", "yes_no")
    assert {"eval_accuracy", *(f"eval_accuracy_{kind}" for kind in kinds)} <= scores.keys()
    pipe = visgen.load(run / "model")
    assert len(pipe(pictures(2), "is there a red circle?", max_new_tokens=3).answers) == 2
    log = json.loads((run / "training_log.json").read_text())
    assert log["summary"]["vision_tokens"] == TOKENS


def test_validation_is_what_the_pipeline_answers(run):
    pipe = visgen.load(run / "model")
    again = load_recipe(recipe("x", 1, {}, init=str(run / "model")))
    one = VLMObjective.from_recipe(again, Scenes("train", size=SIZE))
    scores = one.evaluate(pipe.vision_language_model, 0)
    held_out = list(map(SceneQuestions("validation", 14).__getitem__, range(14)))
    images = list(to_pixels(render([one.scene for one in held_out], SIZE)))
    answers = pipe(images, [one.question.text for one in held_out], max_new_tokens=1).answers
    right = [a == one.question.answer for a, one in zip(answers, held_out, strict=True)]
    assert scores["accuracy"] == pytest.approx(sum(right) / 14)


def test_a_blind_reference_weighs_the_answers(tmp_path):
    blind = train(recipe(tmp_path / "blind", 2, blind=True))
    assert "eval_accuracy" in json.loads((blind / "log.jsonl").read_text().splitlines()[-1])
    none = {"facts_weight": 0.0, "looks_weight": 0.0}
    weighted, batch = objective(prior_alpha=1.0, prior_reference=str(blind / "model"), **none)
    plain, _ = objective(**none)
    values, others = weighted.loss(batch, 0, 7), plain.loss(batch, 0, 7)
    assert torch.equal(values["answer"], others["answer"])
    assert values["loss"] != others["loss"]
    weighted.freeze()
    assert not any(name.startswith("reference") for name, _ in weighted.trained())
    assert not any(name.startswith("reference") for name in weighted.training_state())


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"questions": 0}, "options.questions=0"),
        ({"kinds": ["smell"]}, "'smell'"),
        ({"token_counts": [5]}, "token_counts=5 is no square"),
        ({"token_counts": [25]}, "token_counts=25 is above the 16"),
        ({"token_counts": [4], "token_weights": [1.0, 2.0]}, "one number for each"),
        ({"prior_alpha": 1.0}, "needs prior_reference"),
        ({"blind": True, "token_counts": [4]}, "sees no image"),
        ({"prior_alpha": 1.0, "prior_reference": "scenes-ar"}, "prior_reference='scenes-ar' is no LLaVA"),
        ({"init": "scenes-ar"}, "model must be empty"),
        ({"width": 90}, "max_length=96 is below"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, keys, told):
    with pytest.raises(InputError, match=told):
        train(recipe(tmp_path, 1, **keys))


def test_data_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"data.size=64 does not fit the model's image_size=32"):
        train({**recipe(tmp_path, 1), "data": {"source": "scenes", "split": "train"}})
    one, _ = objective()
    with pytest.raises(InputError, match="no ground truth"):
        one.loss(Batch(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)), 0, 0)


@pytest.mark.parametrize("name", ["scenes-vlm", *(f"ablations/{path.stem}" for path in ABLATIONS)])
def test_shipped_recipes_are_valid(name):
    path = RECIPES / f"{name}.yaml"
    found = load_recipe(path)
    assert found.objective == "scenes-vlm"
    assert found.output == f"runs/{path.stem}"
    options = read(VLMOptions, found.options, "options")
    assert options.card["recipe"] == str(path.relative_to(RECIPES.parent))
    assert build_source(found.data).image_size == read(VisionLanguageSizes, found.model, "model").image_size
