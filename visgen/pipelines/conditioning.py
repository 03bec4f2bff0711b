"""From prompts and labels to the condition of each row, checked before anything is computed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from visgen.errors import InputError, shown
from visgen.generators.conditions import ClassCondition, Condition
from visgen.nn.noise import Noise
from visgen.pipelines.seeds import ImageSeed

Item = TypeVar("Item")
Labels = int | Sequence[int] | Tensor | None

UNCONDITIONAL = -1
MAX_CHARACTERS = 10_000  # no text encoder reads more
MAX_WORDS_TOLD = 120  # a vocabulary of the scenes world has about 80


def condition_kind(generator: Any, default: str) -> str:
    """What a generator is conditioned on: "class", "prompt" or "text"; `default` if its config is silent."""
    return getattr(generator.config, "condition", default)


def repeat_each(items: Sequence[Item], count: int) -> list[Item]:
    """a, b → a, a, b, b: the images of one prompt stand together."""
    return [item for item in items for _ in range(count)]


def as_prompts(prompt: str | Sequence[str], name: str = "prompt") -> list[str]:
    """One prompt or a list of them, as a list.

    Raises:
        InputError: anything else, an empty list, more than `MAX_CHARACTERS`, or what is no Unicode text.
    """
    prompts = (
        [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, (list, tuple)) else None
    )
    if not prompts or not all(isinstance(one, str) for one in prompts):
        raise InputError(f"{name}={shown(prompt)} must be a string or a non-empty list of strings")
    for one in prompts:
        _check_text(one, name)
    return prompts


def _check_text(prompt: str, name: str) -> None:
    if len(prompt) > MAX_CHARACTERS:
        raise InputError(f"{name}={shown(prompt)} is too long; {MAX_CHARACTERS:,} characters are the most")
    if any("\ud800" <= character <= "\udfff" for character in prompt):  # bytes that were not UTF-8
        raise InputError(f"{name}={shown(prompt)} is no Unicode text; write it in UTF-8")


def as_negatives(negative: str | Sequence[str] | None, count: int) -> list[str] | None:
    """One negative prompt for all, or one per prompt."""
    if negative is None:
        return None
    negatives = as_prompts(negative, "negative_prompt")
    if len(negatives) not in (1, count):
        raise InputError(
            f"negative_prompt is a list of {len(negatives)} for {count} prompts; give one, or one per prompt"
        )
    return negatives * (count // len(negatives))


def as_labels(label: Labels, num_classes: int, name: str = "label") -> list[int]:
    """Class labels as a list; -1 is the unconditional class.

    Raises:
        InputError: not integers, none at all, or outside -1 … num_classes - 1.
    """
    given: Any = label
    values = given.tolist() if hasattr(given, "tolist") else given
    values = list(values) if isinstance(values, (list, tuple, range)) else [values]
    if not values or any(isinstance(one, bool) or not isinstance(one, int) for one in values):
        raise InputError(f"{name}={shown(label)} must be an integer or a non-empty list of integers")
    for one in values:
        if not UNCONDITIONAL <= one < num_classes:
            raise InputError(f"{name}={one} must be in 0 … {num_classes - 1}, or -1 for no class")
    return values


def random_labels(seeds: Sequence[ImageSeed], num_classes: int) -> list[int]:
    """A class for each image, from its seed; other draws than those of its tokens (ordinals below zero)."""
    noise = Noise.per_image((seed, -1 - ordinal) for seed, ordinal in seeds)
    return noise.labels(num_classes, len(seeds)).tolist()


def class_condition(labels: Sequence[int]) -> Callable[[list[int]], Condition]:
    """Rows → their classes."""
    return lambda rows: ClassCondition(torch.tensor([labels[row] for row in rows]))


def text_condition(
    text: Any, prompts: Sequence[str], negatives: Sequence[str] | None, device: torch.device
) -> Callable[[list[int]], Condition]:
    """Rows → their prompts as the text component encodes them.

    Raises:
        InputError: a prompt is too long.
    """
    text.check([*prompts, *(negatives or [])])
    warn_of_unknown_words(text, [*prompts, *(negatives or [])])

    def condition(rows: list[int]) -> Condition:
        chosen = None if negatives is None else [negatives[row] for row in rows]
        return text.encode([prompts[row] for row in rows], chosen, device=device)

    return condition


def warn_of_unknown_words(text: Any, prompts: Sequence[str]) -> None:
    """One `UserWarning` for a call, naming the words that the model does not know and those it does."""
    unknown = list(
        dict.fromkeys(word for prompt in dict.fromkeys(prompts) for word in text.unknown_words(prompt))
    )
    if not unknown:
        return
    known = text.known_words()
    told = ", ".join(known[:MAX_WORDS_TOLD]) + (", …" if len(known) > MAX_WORDS_TOLD else "")
    words = ", ".join(shown(word, 40) for word in unknown)
    warnings.warn(f"prompt: this model does not know {words}; it knows: {told}", UserWarning, stacklevel=4)
