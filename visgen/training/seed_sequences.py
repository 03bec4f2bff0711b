"""Training sequences of a language model with images: captions and images in either order (SEED-LLaMA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.pipelines.seed_vocabulary import SeedVocabulary

PADDING, FIRST, CAPTION, IMAGE, END = range(5)  # what an id is in its sequence
ROUND = 8  # widths are multiples of it: few shapes to compile


@dataclass(frozen=True, eq=False)
class Sequences:
    """Ids int64 (B, T), padded on the right, and what each is, (B, T): `FIRST` = of the part that stands
    first and `<s>`; `CAPTION`, `IMAGE` = of what follows the other; `END` = `</s>`."""

    ids: Tensor
    kinds: Tensor


@dataclass(frozen=True)
class SequencePlan:
    """How sequences are put together.

    Args:
        drawing: fraction that runs from caption to image; the others run from image to caption.
        condition_dropout: fraction of the drawing ones without their caption, for guidance.
        instructions: phrases of which one, or none, stands behind an image that is captioned.
        width: length of every sequence; None = that of the longest, rounded up.
    """

    drawing: float = 0.5
    condition_dropout: float = 0.1
    instructions: tuple[str, ...] = ()
    width: int | None = None


def write_sequences(
    words: SeedVocabulary,
    captions: Sequence[str],
    codes: Sequence[Sequence[int]],
    plan: SequencePlan,
    generator: torch.Generator,
) -> Sequences:
    """One sequence per image: `<s>`, caption and image in a drawn order, `</s>`.

    Args:
        words: the vocabulary.
        captions, codes: of B images.
        plan: shares of each kind.
        generator: of the draws, three per image.

    Raises:
        InputError: a sequence that is longer than the plan's width.
    """
    draws = torch.rand(len(captions), 3, generator=generator).tolist()
    texts, asked = words.words(captions), words.words(plan.instructions)
    rows = [
        _row(words, text, own, asked, plan, *three)
        for text, own, three in zip(texts, codes, draws, strict=True)
    ]
    longest = max(len(ids) for ids, _ in rows)
    if plan.width is not None and longest > plan.width:
        raise InputError(
            f"a caption makes a sequence of {longest} ids; options.text_length leaves {plan.width}"
        )
    width = plan.width or -(-longest // ROUND) * ROUND
    ids = torch.tensor([one + [words.pad] * (width - len(one)) for one, _ in rows])
    kinds = torch.tensor([one + [PADDING] * (width - len(one)) for _, one in rows])
    return Sequences(ids, kinds)


def _row(
    words: SeedVocabulary,
    text: list[int],
    codes: Sequence[int],
    instructions: Sequence[list[int]],
    plan: SequencePlan,
    order: float,
    dropped: float,
    asked: float,
) -> tuple[list[int], list[int]]:
    """Ids and kinds of one sequence."""
    images = words.images
    span = [images.begin, *(images.first_code + code for code in codes), images.end]
    if order < plan.drawing:
        alone = dropped < plan.condition_dropout
        before = [] if alone else text
        ids = [words.bos, *before, *span, words.eos]
        # an image alone could also be captioned: no loss on its end, or captions would learn to be empty
        return ids, [FIRST] * (1 + len(before)) + [IMAGE] * len(span) + [PADDING if alone else END]
    k = int(asked * (len(instructions) + 1))
    question = instructions[k] if k < len(instructions) else []
    ids = [words.bos, *span, *question, *text, words.eos]
    # no loss on the question, or a picture without one would be followed by one
    return ids, [FIRST] * (1 + len(span)) + [PADDING] * len(question) + [CAPTION] * (len(text) + 1)
