"""How right answers to questions about scenes are: accuracy of each kind, with bootstrap intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from visgen.data.scenes.questions import ANSWERS, Question
from visgen.evaluation.bootstrap import mean_interval

SPELLINGS = {"1": "one", "2": "two", "3": "three", "4": "four", "grey": "gray", "color": "colour"}


def said(text: str, kind: str) -> str | None:
    """The one answer of a kind that a text holds; None where it holds none, or several.

    Models that were not trained on scenes answer in sentences: "The circle is red." says "red".
    """
    words = [SPELLINGS.get(word, word) for word in re.findall(r"[a-z0-9]+", text.lower())]
    found = {word for word in words if word in ANSWERS[kind]}
    return found.pop() if len(found) == 1 else None


def right_answers(answers: Sequence[str], questions: Sequence[Question]) -> np.ndarray:
    """(n,) float64: 1 where a text says the answer to its question, else 0.

    Raises:
        ValueError: other numbers of both, or none.
    """
    said_right = [said(text, one.kind) == one.answer for text, one in zip(answers, questions, strict=True)]
    if not said_right:
        raise ValueError("no answers to score")
    return np.array(said_right, float)


def answer_scores(answers: Sequence[str], questions: Sequence[Question], seed: int = 0) -> dict[str, Any]:
    """Metrics of a result record: "accuracy", and "accuracy_KIND" for each kind that was asked.

    Args:
        answers: what a model wrote, one per question.
        questions: what it was asked.
        seed: of the bootstrap.

    Raises:
        ValueError: other numbers of both, or none.
    """
    right = right_answers(answers, questions)
    return {
        name: _score(right[asked], seed) | {"higher_is_better": True}
        for name, asked in _by_kind(questions).items()
    }


def paired_scores(
    right: np.ndarray, beside: np.ndarray, questions: Sequence[Question], seed: int = 0
) -> dict[str, Any]:
    """How much more often one model was right than another on the same questions, by the names of
    `answer_scores`: the difference, and its interval over resampled questions.

    Args:
        right, beside: of `right_answers`.
        questions: what both were asked.
        seed: of the bootstrap.
    """
    return {name: _score((right - beside)[asked], seed) for name, asked in _by_kind(questions).items()}


def _by_kind(questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Name of a metric → which questions it looks at."""
    kinds = np.array([one.kind for one in questions])
    found: dict[str, np.ndarray] = {"accuracy": np.ones(len(kinds), bool)}
    for kind in (kind for kind in ANSWERS if kind in kinds):
        found[f"accuracy_{kind.replace('/', '_')}"] = kinds == kind
    return found


def _score(values: np.ndarray, seed: int) -> dict[str, Any]:
    low, high = mean_interval(values, seed)
    return {"value": float(values.mean()), "interval": [low, high], "count": len(values)}
