"""Writing texts with images in them, id after id: what may follow, and the loop that draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visgen.errors import InputError, shown
from visgen.generators.conditions import PromptCondition
from visgen.generators.transformers.session import TrunkSession
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling, token_law
from visgen.pipelines.language_models import SeedLlama
from visgen.pipelines.seed_prompts import ImageIds
from visgen.pipelines.seed_vocabulary import SeedVocabulary

Wanted = Literal["any", "text", "image"]
WANTED = ("any", "text", "image")
_FREE, _TEXT, _CODES, _END = range(4)  # rows of the table of what may follow


@dataclass(frozen=True)
class AnswerPlan:
    """What an answer may be.

    Args:
        wanted: "any" = words and images; "text" = words alone; "image" = one image, whose `<img>` the prompt
            holds already.
        max_new_tokens: longest answer.
        constrained: an image is exactly so many codes and `</img>`, codes stand nowhere else, and none
            begins that cannot end in time; False = whatever the model writes, as the official code does.

    Raises:
        InputError: another kind of answer, or no room for it.
    """

    wanted: Wanted = "any"
    max_new_tokens: int = 512
    constrained: bool = True

    def __post_init__(self) -> None:
        if self.wanted not in WANTED:
            raise InputError(f"output={shown(self.wanted)} must be one of {', '.join(WANTED)}")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens={self.max_new_tokens} must be 1 or more")

    def longest(self, images: ImageIds) -> int:
        """Ids of the longest answer: an image alone ends by itself."""
        alone = self.wanted == "image" and self.constrained
        return images.length + 1 if alone else self.max_new_tokens


class SpanState:
    """How far each row is inside an image, and what may follow there.

    Args:
        vocabulary: of words and codes.
        size: ids that the model knows, some perhaps beyond the vocabulary.
        rows: B.
        plan: what is wanted.
    """

    def __init__(self, vocabulary: SeedVocabulary, size: int, rows: int, plan: AnswerPlan) -> None:
        self._images, self._plan, self._eos = vocabulary.images, plan, vocabulary.eos
        self._inside = torch.full((rows,), 0 if plan.wanted == "image" else -1)  # codes so far; -1 = outside
        self.done = torch.zeros(rows, dtype=torch.bool)
        self._table = _table(vocabulary, size)

    def allowed(self, remaining: int) -> Tensor | None:
        """Bool (B, V): ids that may follow where `remaining` more are to be written; None = all."""
        if not self._plan.constrained:
            return None
        room = self._plan.wanted != "text" and remaining >= self._images.length + 2
        outside = torch.full_like(self._inside, _FREE if room else _TEXT)
        codes = torch.where(self._inside < self._images.length, _CODES, _END)
        return self._table[torch.where(self._inside < 0, outside, codes)]

    def follow(self, ids_B: Tensor) -> None:
        """Take note of the ids that were written."""
        ended = ids_B == self._images.end
        inside = torch.where(self._inside < 0, self._inside, self._inside + 1)
        inside = torch.where(ids_B == self._images.begin, 0, inside)
        self._inside = torch.where(ended, -1, inside)
        self.done |= ids_B == self._eos
        if self._plan.wanted == "image":
            self.done |= ended


def _table(vocabulary: SeedVocabulary, size: int) -> Tensor:
    """Bool (4, V): what may follow outside of an image, there without room for one, inside, at its end."""
    images, ids = vocabulary.images, torch.arange(size)
    codes = (ids >= images.first_code) & (ids < images.first_code + images.num_codes)
    words = ~codes & (ids != images.end) & (ids < vocabulary.size)
    return torch.stack([words, words & (ids != images.begin), codes, ids == images.end])


@torch.no_grad()
def write_answers(
    model: SeedLlama,
    prompts: Sequence[Sequence[int]],
    plan: AnswerPlan,
    sampling: TokenSampling,
    noise: Noise,
) -> list[list[int]]:
    """New ids after each prompt, up to and with the end of sequence.

    An answer does not depend on those beside it: each row draws from its own noise, V numbers per id.

    Args:
        model: what writes.
        prompts: ids of B prompts, none empty.
        plan: what is wanted.
        sampling: temperature and filters; guidance is not used.
        noise: a row per prompt.

    Raises:
        InputError: prompt and answer exceed the positions of the model.
    """
    longest = plan.longest(model.vocabulary.images)
    session = TrunkSession(model.words_trunk(), left_padded(prompts), TokenSampling(), longest, 1)
    state = SpanState(model.vocabulary, session.vocab_size, len(prompts), plan)
    root, one = session.committed[:, None], torch.ones_like(session.committed)
    step, written, lengths = session.prefill(), [], torch.full((len(prompts),), longest)
    for position in range(longest):
        logits = step.logits[:, 0]
        if (allowed := state.allowed(longest - position)) is not None:
            logits = logits.masked_fill(~allowed[:, None].to(logits.device), -torch.inf)
        ids = noise.categorical(token_law(logits, sampling).softmax(dim=-1))
        written.append(ids.cpu())
        before = state.done.clone()
        state.follow(written[-1][:, 0])
        lengths[state.done & ~before] = position + 1
        if bool(state.done.all()) or position + 1 == longest:
            break
        step = session.extend(ids[..., None])
        session.commit(root, one)
    rows = torch.cat(written, dim=1).tolist()
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]


def left_padded(rows: Sequence[Sequence[int]]) -> PromptCondition:
    """Ids and mask (B, T) of rows of different lengths."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return PromptCondition(ids, torch.arange(width) >= width - lengths[:, None])
