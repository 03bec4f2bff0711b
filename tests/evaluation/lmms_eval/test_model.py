"""The adapter's class on tiny models of two families, with lmms-eval's own classes where it is installed."""

from __future__ import annotations

import importlib.metadata
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.lmms_eval.fake import INSTALLED, provide, request
from tests.pipelines.answer_models import pictures, tiny_answer_model, tiny_next_model
from visgen.errors import InputError
from visgen.evaluation.lmms_eval import CLASS, manifest
from visgen.pipelines.answer import AnswerPipeline

QUESTIONS = ["what colour is the circle?", "is there a red star?", "how many objects are there?", "shape"]
GREEDY = {"until": ["\n\n"], "max_new_tokens": 4, "do_sample": False}
DOCS = [{"images": pictures(1 + number, 40 + 16 * number)} for number in range(2)] + [{"images": []}]


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lmms") / request.param
    model = tiny_answer_model() if request.param == "llava" else tiny_next_model()
    AnswerPipeline(model).save_pretrained(folder)
    return folder


@pytest.fixture
def made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    provide(monkeypatch)

    def make(**options: Any) -> Any:
        from visgen.evaluation.lmms_eval.model import VisgenLmm

        model = VisgenLmm(str(folder), device="cpu", dtype="float32", max_batch_size=None, **options)
        model.task_dict = {"scenes": {"test": DOCS}}
        return model

    return make


def visual(doc: Any) -> Any:
    return doc["images"]


def asked(options: dict[str, Any] = GREEDY) -> list[Any]:
    """One picture, two, none, and one again with other options."""
    documents = [0, 1, 2, 0]
    return [
        request(
            (text, options if number < 3 else {**options, "max_new_tokens": 2}, visual, doc, "scenes", "test")
        )
        for number, (text, doc) in enumerate(zip(QUESTIONS, documents, strict=True))
    ]


@pytest.mark.parametrize("method", [None, "divprune:0.3", "mustdrop:0.5:window=2:after=1,", "globalcom2:0.5"])
def test_a_batch_answers_as_single_requests(made: Any, method: str | None) -> None:
    together = made(prune=method, batch_size=4).generate_until(asked())
    single = made(prune=method, batch_size=1)
    assert together == [single.generate_until([one])[0] for one in asked()]
    assert len(set(together)) > 1


def test_it_answers_as_the_pipeline(made: Any, folder: Path) -> None:
    import visgen

    pipe = visgen.load(folder)
    expected = pipe(DOCS[0]["images"], QUESTIONS[0], prune="divprune:0.3", max_new_tokens=4)
    model = made(prune="divprune:0.3", batch_size=2)
    assert model.generate_until(asked()[:1]) == expected.answers
    kept, report = model.answerer.kept, expected.reports[0]
    assert (kept.prompts, kept.image_tokens) == (1, report.image_tokens[0][0])
    assert kept.kept_tokens == len(report.kept[0][0]) < kept.image_tokens
    assert f"1 prompts: {kept.kept_tokens:.1f} of {kept.image_tokens:.1f} vision tokens" in str(kept)


def test_draws_do_not_depend_on_the_batch(made: Any) -> None:
    options = {**GREEDY, "do_sample": True, "temperature": 1.5}
    first = made(prune="fastv:0.5:layer=1", batch_size=1).generate_until(asked(options))
    assert first == made(prune="fastv:0.5:layer=1", batch_size=4).generate_until(asked(options))
    assert first != made(prune="fastv:0.5:layer=1", batch_size=4, seed=1).generate_until(asked(options))
    beams = made(prune="fastv:0.5:layer=1", batch_size=2).generate_until(asked({**GREEDY, "num_beams": 2}))
    assert len(beams) == 4


def likely(text: str, continuation: Any, doc: int | None) -> Any:
    place = () if doc is None else (visual, doc, "scenes", "test")
    return request((text, continuation, *place), "loglikelihood")


def test_likelihoods_are_those_of_the_whole_sequence(made: Any) -> None:
    model = made(batch_size=3)
    choices = [" red", " a blue star", " yes"]
    requests = [likely(QUESTIONS[0], choice, 0) for choice in choices]
    requests += [likely("red", " circle", None), likely(QUESTIONS[1], lambda doc: " no", 1)]
    found = [one.text for one in model.loglikelihood(requests)]
    language = model.answerer.language
    for (value, _), choice in zip(found[:3], choices, strict=True):
        text = language.prompt(QUESTIONS[0])
        inputs = language.processor(images=DOCS[0]["images"], text=[text + choice], return_tensors="pt")
        with torch.no_grad():
            log = language.model(**inputs).logits[0].log_softmax(dim=-1)
        ids, count = inputs["input_ids"][0], len(choice.split())
        wanted = sum(log[place - 1, ids[place]].item() for place in range(len(ids) - count, len(ids)))
        assert value == pytest.approx(-wanted / count, abs=1e-3)
    assert all(value > 0 for value, _ in found)
    alone = made(batch_size=1).loglikelihood(requests)
    assert [one.text[0] for one in alone] == pytest.approx([value for value, _ in found], abs=1e-4)


def test_what_greedy_decoding_writes_is_greedy(made: Any) -> None:
    model = made(prune="fastv:0.5:layer=1", batch_size=2)
    answer = model.generate_until(asked()[:1])[0]
    other = "red" if not answer.startswith("red") else "blue"
    found = model.loglikelihood([likely(QUESTIONS[0], f" {text}", 0) for text in (answer, other)])
    assert [one.text[1] for one in found] == [True, False]


def test_a_pruner_does_not_see_the_continuation(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, kept = made(prune="recoverable:0.3", batch_size=2), []
    add = type(model.answerer.kept).add
    monkeypatch.setattr(
        type(model.answerer.kept), "add", lambda self, report: (kept.append(report.kept), add(self, report))
    )
    model.loglikelihood([likely(QUESTIONS[0], choice, 0) for choice in (" red", " a blue star")])
    first, second = ([image.tolist() for image in row] for row in kept[0])
    assert first == second


def test_quotes_around_commas_are_taken_off(made: Any) -> None:
    assert made(prune='"lazyllm:0.5:depths=0.4,0.7"').answerer.pruner.depths == (0.4, 0.7)


def test_bad_arguments(made: Any) -> None:
    for options, told in (
        ({"prune": "divprun:0.1"}, "divprun"),
        ({"batch_size": "auto"}, "batch_size=auto"),
        ({"prun": "divprune"}, "unknown 'prun'"),
    ):
        with pytest.raises(InputError, match=told):
            made(**options)
    with pytest.raises(InputError, match="several rounds"):
        made().generate_until_multi_round([])
    with pytest.raises(InputError, match="no tokens"):
        made().loglikelihood([likely(QUESTIONS[0], "", 0)])


def test_what_is_kept_is_logged(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    if INSTALLED:
        pytest.skip("loguru writes past the log that pytest sees")
    caplog.set_level(logging.INFO, logger="visgen.lmms")
    made(prune="uniform:4").generate_until(asked())
    assert "vision tokens reached the last layer" in caplog.text


def test_lmms_eval_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch)
    told = manifest()
    assert (told.model_id, told.simple_class_path) == ("visgen", CLASS)
    points = importlib.metadata.entry_points(group="lmms_eval.models")
    assert [point.load()().model_id for point in points if point.name == "visgen"] in ([], ["visgen"])
    if INSTALLED:
        from lmms_eval.models.registry_v2 import ModelRegistryV2

        registry = ModelRegistryV2()
        registry.register_manifest(told)
        assert registry.get_model_class("visgen").__name__ == "VisgenLmm"
