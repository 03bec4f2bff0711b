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


def answer_scores(answers: Sequence[str], questions: Sequence[Question], seed: int = 0) -> dict[str, Any]:
    """Metrics of a result record: "accuracy", and "accuracy_KIND" for each kind that was asked.

    Args:
        answers: what a model wrote, one per question.
        questions: what it was asked.
        seed: of the bootstrap.

    Raises:
        ValueError: other numbers of both, or none.
    """
    right = np.array(
        [said(text, one.kind) == one.answer for text, one in zip(answers, questions, strict=True)], float
    )
    if not len(right):
        raise ValueError("no answers to score")
    kinds = np.array([one.kind for one in questions])
    scores = {"accuracy": _score(right, seed)}
    for kind in (kind for kind in ANSWERS if kind in kinds):
        scores[f"accuracy_{kind.replace('/', '_')}"] = _score(right[kinds == kind], seed)
    return scores


def _score(right: np.ndarray, seed: int) -> dict[str, Any]:
    low, high = mean_interval(right, seed)
    value = float(right.mean())
    return {"value": value, "interval": [low, high], "higher_is_better": True, "count": len(right)}
