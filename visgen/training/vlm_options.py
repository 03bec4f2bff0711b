"""What a recipe of the objective `scenes-vlm` may choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visgen.data.scenes import QUESTION_KINDS
from visgen.errors import InputError
from visgen.nn.grid_pooling import square_side
from visgen.training.vlm_sequences import WIDTH


@dataclass(frozen=True)
class VLMOptions:
    """How the model is asked, and what the losses are.

    Args:
        init: folder of a model to start from; the recipe's model section must then be empty.
        questions: questions per image and step.
        width: ids of the longest question with its answer.
        kinds: what is asked, names of `QUESTION_KINDS`.
        enlarged: share of the pictures that are brought to the world's 64 pixels and back, so that small
            pictures of users look familiar.
        facts_weight, looks_weight: of the heads on the tower (`vlm_heads`); 0 = none.
        token_counts: numbers of vision tokens of which each step draws one (TokenFLEX, 2504.03154), squares;
            empty = always all.
        token_weights: their probabilities, in proportion; empty = equal.
        prior_alpha: exponent of PRIOR's weights (2505.08971); 0 = every answer counts alike.
        prior_reference: folder of a model that was trained with `blind`, which gives them.
        blind: train without images: a reference for PRIOR, and what guessing reaches.
        validation_questions: held-out questions scored with the samples, all kinds equally often; 0 = none.
        card: facts for the model card.
    """

    init: str | None = None
    questions: int = 8
    width: int = WIDTH
    kinds: tuple[str, ...] = QUESTION_KINDS
    enlarged: float = 0.25
    facts_weight: float = 0.3
    looks_weight: float = 0.3
    token_counts: tuple[int, ...] = ()
    token_weights: tuple[float, ...] = ()
    prior_alpha: float = 0.0
    prior_reference: str | None = None
    blind: bool = False
    validation_questions: int = 0
    card: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_ranges(self)
        for count in self.token_counts:
            square_side(count, "options.token_counts")
        if self.token_weights and len(self.token_weights) != len(self.token_counts):
            raise InputError("options.token_weights must have one number for each of token_counts")
        if unknown := sorted(set(self.kinds) - set(QUESTION_KINDS)):
            raise InputError(
                f"options.kinds has {unknown[0]!r}; kinds of questions are {', '.join(QUESTION_KINDS)}"
            )
        if (self.prior_alpha > 0) != (self.prior_reference is not None):
            raise InputError("options.prior_alpha above 0 needs prior_reference, and the other way round")
        if self.blind and (self.token_counts or self.prior_alpha):
            raise InputError("options.blind sees no image: leave token_counts and prior_alpha out")


def _check_ranges(options: VLMOptions) -> None:
    checks = {
        "questions": options.questions >= 1,
        "width": options.width >= 3,
        "enlarged": 0 <= options.enlarged <= 1,
        "facts_weight": options.facts_weight >= 0,
        "looks_weight": options.looks_weight >= 0,
        "prior_alpha": options.prior_alpha >= 0,
        "validation_questions": options.validation_questions >= 0,
        "token_weights": all(weight > 0 for weight in options.token_weights),
        "kinds": len(options.kinds) > 0,
    }
    for name, good in checks.items():
        if not good:
            raise InputError(f"options.{name}={getattr(options, name)!r} is out of range")
