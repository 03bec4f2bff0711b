"""Questions asked in all ways at once: the pipeline's own answers, kept in a journal, compared in pairs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipelines.answer_models import pictures, tiny_answer_pipeline
from visgen.data.scenes import Question
from visgen.errors import InputError
from visgen.evaluation import answer_options
from visgen.evaluation.answer_batches import SharedBatch, Told, drawing
from visgen.evaluation.answer_journal import AnswerJournal
from visgen.evaluation.answer_options import RETENTIONS, AnswerOptions
from visgen.evaluation.answer_run import WHOLE
from visgen.evaluation.answering import evaluate_answers
from visgen.evaluation.records import SCHEMA
from visgen.evaluation.scenes.answers import paired_scores
from visgen.pipelines.answer import AnswerPipeline
from visgen.pruning import PRUNERS
from visgen.pruning.chain import PrunerChain
from visgen.pruning.making import parse_pruner
from visgen.pruning.random_choice import RandomPruner

QUESTIONS = ["what colour is the circle?", "is there a red star?", "how many objects are there?"]
METHODS = [
    "random:0.5",
    "uniform:0.5",
    "fastv:0.5:layer=1",
    "cls:0.5",
    "divprune:0.5",
    "mustdrop:0.5:window=2:merge_threshold=0.3",
    "globalcom2:0.5",
    "recoverable:0.5",
    "tokencorr:0.5",
    "lazyllm:0.5:depths=0.4,0.7",  # the tiny model has three layers
    "cls:0.75+fastv:0.5:layer=1",
]


@pytest.fixture(scope="module")
def pipe() -> AnswerPipeline:
    return tiny_answer_pipeline()


def test_every_method_is_among_them() -> None:
    assert {method.split(":")[0] for method in METHODS} == set(PRUNERS.names())


def test_the_answers_are_the_pipelines(pipe: AnswerPipeline) -> None:
    images, pruners = pictures(3), {method: parse_pruner(method) for method in METHODS}
    shared = SharedBatch(pipe, images, QUESTIONS, list(pruners.values()), 4)
    whole = shared.ask(None)
    assert whole.answers == pipe(images, QUESTIONS, max_new_tokens=4).answers
    assert whole.sums["image_tokens"] == 48 and whole.prefill_ms > 0
    seen = set()
    for method, pruner in pruners.items():
        told, plain = shared.ask(pruner), pipe(images, QUESTIONS, prune=method, max_new_tokens=4)
        assert told.answers == plain.answers, method
        kept = sum(len(image) for report in plain.reports for row in report.kept for image in row)
        assert told.sums["kept_tokens"] == kept < 48, method
        assert told.sums["cache_bytes"] < whole.sums["cache_bytes"]
        assert told.selection_ms > 0 and told.prefill_ms > 0
        seen.add(tuple(told.answers))
    assert len(seen) > 2  # methods do differ


def test_pictures_are_cut_alike_alone_and_in_a_batch(pipe: AnswerPipeline) -> None:
    method = "mustdrop:0.5:window=2:merge_threshold=0.3"
    images = pictures(5)
    together = pipe(images, QUESTIONS[0], prune=method, max_new_tokens=2)
    kept = [len(report.entered[0][0]) for report in together.reports]
    assert len(set(kept)) > 1
    for image, answer, count in zip(images, together.answers, kept, strict=True):
        alone = pipe(image, QUESTIONS[0], prune=method, max_new_tokens=2)
        assert (alone.answers[0], len(alone.reports[0].entered[0][0])) == (answer, count)


def test_pruners_that_draw_take_another_seed_in_each_batch() -> None:
    assert drawing(RandomPruner(keep=0.5, seed=3), 4) == RandomPruner(keep=0.5, seed=7)
    chain = parse_pruner("random:0.5+fastv:0.5+tokencorr:0.5")
    assert drawing(chain, 2) == parse_pruner("random:0.5:seed=2+fastv:0.5+tokencorr:0.5")
    assert isinstance(drawing(chain, 2), PrunerChain)


def test_a_run_goes_on_where_it_was_killed(
    pipe: AnswerPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, journal = tmp_path / "model", tmp_path / "scores.json.part"
    pipe.save_pretrained(folder)
    options = AnswerOptions(count=10, batch_size=4, prune=("uniform:0.25", "random:0.25"))
    expected = evaluate_answers([str(folder)], options)
    asked: list[Any] = []
    ask = SharedBatch.ask

    def dying(shared: SharedBatch, pruner: Any) -> Told:
        asked.append(pruner)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return ask(shared, pruner)

    monkeypatch.setattr(SharedBatch, "ask", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate_answers([str(folder)], options, journal=journal)
    assert len(journal.read_text().splitlines()) == 1 + 4
    with journal.open("a") as file:
        file.write('{"key": ["cut sh')
    with pytest.raises(InputError, match="answers of another run"):
        evaluate_answers([str(folder)], AnswerOptions(count=9, batch_size=4), journal=journal)
    found = evaluate_answers([str(folder)], options, journal=journal)
    assert len(asked) == 5 + 9 - 4  # three batches, three ways
    assert not journal.exists()
    assert [one["metrics"] for one in found] == [one["metrics"] for one in expected]
    assert [one["paired"] for one in found] == [one["paired"] for one in expected]


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part"
    AnswerJournal(path, {"a": 1}).add(("w", WHOLE, 0), Told(["red"], {"kept_tokens": 3}, 0.0, 1.0))
    assert AnswerJournal(path, {"a": 1}).get(("w", WHOLE, 0)) == Told(["red"], {"kept_tokens": 3}, 0.0, 1.0)
    for line in ("{}", "[]", '{"key": ["w", "m", 0]}', "red"):
        path.write_text(json.dumps({"a": 1}) + f"\n{line}\n")
        with pytest.raises(InputError, match="damaged line"):
            AnswerJournal(path, {"a": 1})


def test_all_methods_at_all_retentions(
    pipe: AnswerPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AnswerOptions(prune=("divprune:all",)).prune == tuple(f"divprune:{k}" for k in RETENTIONS[1:])
    assert AnswerOptions(prune=("mustdrop:all",)).prune[0] == "mustdrop:1.0"
    with pytest.raises(InputError, match="divprun"):
        AnswerOptions(prune=("divprun:all",))
    pipe.save_pretrained(tmp_path / "model")
    caplog.set_level(logging.WARNING, logger="visgen")
    monkeypatch.setattr(answer_options, "RETENTIONS", (1.0, 0.25))
    records = evaluate_answers([str(tmp_path / "model")], AnswerOptions(count=2, prune=("all",)))
    assert "lazyllm is left out" in caplog.text and "mustdrop is left out: window=(3, 3)" in caplog.text
    names = [record["pruning"]["name"] for record in records[1:]]
    assert {name: names.count(name) for name in names} == dict.fromkeys(
        set(PRUNERS.names()) - {"lazyllm", "mustdrop"}, 1
    )


def test_pairs_tell_more_than_single_scores() -> None:
    asked = [Question("colour", "?", "red")] * 30 + [Question("yes/no", "?", "no")] * 30
    beside = np.array([1.0, 0.0, 1.0] * 20)
    right = beside.copy()
    right[:3] = 0
    found = paired_scores(right, beside, asked)
    assert found["accuracy"]["value"] == pytest.approx(-2 / 60)
    low, high = found["accuracy"]["interval"]
    assert -0.09 < low < -2 / 60 < high < 0.01
    assert found["accuracy_yes_no"] == {"value": 0.0, "interval": [0.0, 0.0], "count": 30}


def test_a_record_says_what_it_is_beside(pipe: AnswerPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    options = AnswerOptions(count=7, prune=("divprune:0.25",))
    whole, pruned = evaluate_answers([str(tmp_path / "model")], options)
    assert whole["schema"] == SCHEMA and whole["paired"] is None
    value = pruned["metrics"]["accuracy"]["value"] - whole["metrics"]["accuracy"]["value"]
    assert pruned["paired"]["differences"]["accuracy"]["value"] == pytest.approx(value)
    assert pruned["paired"]["beside"] == whole["subject"]["name"]
    assert 0 < pruned["pruning"]["cache_bytes"] < whole["reading"]["cache_bytes"]
    assert whole["reading"]["kept_tokens"] == 16 > pruned["pruning"]["kept_tokens"] == 4
