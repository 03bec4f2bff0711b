"""Held-out questions for scores: each kind equally often, each of its answers equally often."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from visgen.data.scenes.questions import ANSWERS, Question, ask
from visgen.data.scenes.sampling import sample_scene, shrunk
from visgen.data.scenes.scene import Scene
from visgen.data.scenes.splits import check_split
from visgen.errors import InputError

MOST_TRIES = 4096  # scenes looked at for one question; the rarest answer takes some 20


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the scene that it is about."""

    scene: Scene
    question: Question


class SceneQuestions:
    """Balanced questions: the kinds in turn, the answers of a kind in turn.

    Question i is about the first scene from number i on that gives the wanted answer, whatever the count.

    Args:
        split: a split of the scenes; "test_relations" shows two objects, so nothing there counts to three.
        count: number of questions.
        small: objects of half the size, and no questions for sizes: the harder set.

    Raises:
        InputError: an unknown split, or a count below 1.
    """

    def __init__(self, split: str, count: int, small: bool = False) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"count={count!r} is not a number of questions; use 1 or more")
        self.split, self.count, self.small = check_split(split), count, small
        self._scenes: dict[int, Scene] = {}
        self.kinds = tuple(kind for kind in ANSWERS if not (small and kind == "size"))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Asked:
        """Question number `index`, always the same; raises IndexError past the end."""
        number = operator.index(index)
        if not 0 <= number < self.count:
            raise IndexError(f"question {number} is outside the {self.count} of {self.split!r}")
        kind = self.kinds[number % len(self.kinds)]
        answers = self._answers(kind)
        wanted = answers[number // len(self.kinds) % len(answers)]
        for place in range(number, number + MOST_TRIES):
            scene = self._scene(place)
            question = ask(scene, kind, number, sizes=not self.small)
            if question is not None and question.answer == wanted:
                return Asked(shrunk(scene) if self.small else scene, question)
        raise RuntimeError(f"no scene of {self.split!r} answers {wanted!r} to a question of kind {kind!r}")

    def _scene(self, place: int) -> Scene:
        if place not in self._scenes:  # neighbouring questions look at the same ones
            self._scenes[place] = sample_scene(self.split, place)
        return self._scenes[place]

    def _answers(self, kind: str) -> tuple[str, ...]:
        return ANSWERS[kind][:2] if (kind, self.split) == ("count", "test_relations") else ANSWERS[kind]
