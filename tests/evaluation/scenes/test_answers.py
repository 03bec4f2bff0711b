"""What counts as a right answer."""

import pytest

from visgen.data.scenes import Question
from visgen.errors import InputError
from visgen.evaluation.answer_options import AnswerOptions, split_of
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.scenes.answers import answer_scores, said


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("red", "colour", "red"),
        ("The circle is Red.", "colour", "red"),
        ("red or blue", "colour", None),
        ("reddish", "colour", None),
        ("2", "count", "two"),
        ("There are two objects, two!", "count", "two"),
        ("It is to the left of the blue star.", "relation", "left"),
        ("a grey one", "background", "gray"),
        ("Yes, there is.", "yes/no", "yes"),
        ("", "shape", None),
    ],
)
def test_the_answer_in_a_text(text, kind, found):
    assert said(text, kind) == found


def test_scores_by_kind():
    asked = [Question("colour", "?", "red"), Question("colour", "?", "blue"), Question("yes/no", "?", "no")]
    scores = answer_scores(["red", "a red one", "no"], asked)
    assert {name: score["value"] for name, score in scores.items()} == {
        "accuracy": pytest.approx(2 / 3),
        "accuracy_colour": 0.5,
        "accuracy_yes_no": 1.0,
    }
    assert scores["accuracy_colour"]["count"] == 2
    assert scores["accuracy"] == answer_scores(["red", "a red one", "no"], asked)["accuracy"]
    with pytest.raises(ValueError, match="no answers"):
        answer_scores([], [])


def test_images_are_not_scored_by_it():
    with pytest.raises(InputError, match="evaluate_answers"):
        EvaluationOptions(protocol="scenes-vqa").resolve_protocol()


def test_options():
    assert split_of(None) == "validation"
    assert split_of("scenes:test_pairs") == "test_pairs"
    assert AnswerOptions(prune=("uniform:0.5",)).count == 2100
