"""What a generator is conditioned on: class labels, text embeddings, or word ids of its own vocabulary.

Every condition knows its unconditional form, which guidance leads away from and which training drops some
rows to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClassCondition:
    """Class labels, int64 (B,); -1 is the unconditional class."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> ClassCondition:
        """The same labels on another device."""
        return ClassCondition(self.labels.to(device))

    def unconditional(self) -> ClassCondition:
        """The unconditional class for every row."""
        return ClassCondition(torch.full_like(self.labels, -1))

    def dropped(self, rows: Tensor) -> ClassCondition:
        """Unconditional where `rows` (B,) bool is True."""
        return ClassCondition(self.labels.masked_fill(rows, -1))


@dataclass(frozen=True, eq=False)
class TextCondition:
    """Features of a text encoder: embeddings (B, T, D), mask bool (B, T) with True = a word.

    `null` bool (B,) says which rows count as unconditional (None: none); their mask stays, since some models
    put other features behind it.
    """

    embeddings: Tensor
    mask: Tensor
    null: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def words(self) -> Tensor:
        """The mask, without the words of unconditional rows."""
        return self.mask if self.null is None else self.mask & ~self.null[:, None]

    def to(self, device: torch.device | str) -> TextCondition:
        """The same features on another device."""
        null = None if self.null is None else self.null.to(device)
        return TextCondition(self.embeddings.to(device), self.mask.to(device), null)

    def unconditional(self) -> TextCondition:
        """No prompt in any row."""
        return replace(self, null=torch.ones_like(self.mask[:, 0]))

    def dropped(self, rows: Tensor) -> TextCondition:
        """No prompt where `rows` (B,) bool is True."""
        return replace(self, null=rows if self.null is None else self.null | rows)


@dataclass(frozen=True, eq=False)
class PromptCondition:
    """Word ids (B, T) of the generator's own vocabulary, mask bool (B, T) with True = a word.

    `negative_ids` and `negative_mask` stand in for the empty prompt in guidance.
    """

    input_ids: Tensor
    mask: Tensor
    negative_ids: Tensor | None = None
    negative_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device | str) -> PromptCondition:
        """The same ids on another device."""
        tensors = (self.input_ids, self.mask, self.negative_ids, self.negative_mask)
        return PromptCondition(*[None if t is None else t.to(device) for t in tensors])  # type: ignore[arg-type]

    def unconditional(self) -> PromptCondition:
        """What guidance leads away from: the negative prompt, or the empty one."""
        if self.negative_ids is not None and self.negative_mask is not None:
            return PromptCondition(self.negative_ids, self.negative_mask)
        return PromptCondition(self.input_ids, torch.zeros_like(self.mask))

    def dropped(self, rows: Tensor) -> PromptCondition:
        """Empty prompts where `rows` (B,) bool is True."""
        return PromptCondition(self.input_ids, self.mask & ~rows[:, None])


Condition = ClassCondition | TextCondition | PromptCondition
