"""The condition in front of a next-token sequence: a class position, words, or features of a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.generators.conditions import ClassCondition, Condition, PromptCondition, TextCondition


@dataclass(frozen=True, eq=False)
class Prefix:
    """The condition's positions, and what every position reads by cross-attention.

    Attributes:
        embeddings: (B, P, C).
        visible: bool (B, P), the positions that others may see; None = all.
        text: (B, T, C) states for cross-attention; None = the model has none.
        words: bool (B, T), the states that are read; None = all.
    """

    embeddings: Tensor
    visible: Tensor | None = None
    text: Tensor | None = None
    words: Tensor | None = None

    @staticmethod
    def cat(parts: Sequence[Prefix]) -> Prefix:
        """The rows of several prefixes of one model."""
        columns = zip(*((p.embeddings, p.visible, p.text, p.words) for p in parts), strict=True)
        return Prefix(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]


class ClassPrefix(nn.Module):
    """A learned vector per class, the last one for no class."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes + 1, hidden_size)
        self.length = 1

    def forward(self, condition: Condition) -> Prefix:
        if not isinstance(condition, ClassCondition):
            raise _unfit(condition, "class")
        labels, last = condition.labels, self.embed.num_embeddings - 1
        return Prefix(self.embed(labels.where(labels >= 0, last))[:, None])


class PromptPrefix(nn.Module):
    """A vector per word and one per position; masked positions hold a learned vector and are seen too."""

    def __init__(self, vocab_size: int, length: int, hidden_size: int) -> None:
        super().__init__()
        self.length = length
        self.embed = nn.Embedding(vocab_size, hidden_size)
        self.text_pos = nn.Parameter(torch.zeros(1, length, hidden_size))
        self.text_null = nn.Parameter(torch.zeros(1, 1, hidden_size))

    def forward(self, condition: Condition) -> Prefix:
        if not isinstance(condition, PromptCondition):
            raise _unfit(condition, "prompt")
        _check_length(condition.input_ids, self.length)
        words = self.embed(condition.input_ids)
        return Prefix(torch.where(condition.mask[..., None], words, self.text_null) + self.text_pos)


class TextPrefix(nn.Module):
    """Text features through an MLP (LlamaGen's `cap_proj`); without a prompt, stored features that are never
    trained stand in, behind the same mask."""

    def __init__(self, text_dim: int, length: int, hidden_size: int) -> None:
        super().__init__()
        self.length = length
        self.fc1 = nn.Linear(text_dim, hidden_size, bias=False)
        self.fc2 = nn.Linear(hidden_size, hidden_size, bias=False)
        self.register_buffer("text_null", torch.randn(length, text_dim) / text_dim**0.5)

    def forward(self, condition: Condition) -> Prefix:
        if not isinstance(condition, TextCondition):
            raise _unfit(condition, "text")
        _check_length(condition.embeddings, self.length)
        features = condition.embeddings.to(self.fc1.weight.dtype)
        if condition.null is not None:
            features = torch.where(condition.null[:, None, None], self.text_null, features)
        return Prefix(self.fc2(F.gelu(self.fc1(features), approximate="tanh")), condition.mask)


class ProjectedPrefix(nn.Module):
    """Text features through a linear layer; masked positions, and all of a row without a prompt, hold a
    learned vector and are seen too."""

    def __init__(self, text_dim: int, length: int, hidden_size: int) -> None:
        super().__init__()
        self.length = length
        self.proj = nn.Linear(text_dim, hidden_size)
        self.text_pos = nn.Parameter(torch.zeros(1, length, hidden_size))
        self.text_null = nn.Parameter(torch.zeros(1, 1, hidden_size))

    def forward(self, condition: Condition) -> Prefix:
        if not isinstance(condition, TextCondition):
            raise _unfit(condition, "text")
        _check_length(condition.embeddings, self.length)
        words = self.proj(condition.embeddings.to(self.proj.weight.dtype))
        text = torch.where(condition.words[..., None], words, self.text_null.to(words.dtype))
        return Prefix(text + self.text_pos)


class CrossPrefix(nn.Module):
    """One learned position; the text is read by cross-attention.

    Args:
        text: makes vectors of the text, a `PromptPrefix` or `TextPrefix`.
    """

    def __init__(self, text: PromptPrefix | TextPrefix, hidden_size: int) -> None:
        super().__init__()
        self.length = 1
        self.text = text
        self.start = nn.Parameter(torch.zeros(1, 1, hidden_size))

    def forward(self, condition: Condition) -> Prefix:
        read = self.text(condition)
        words = read.visible
        if words is not None:  # a row without a word reads all: attention to nothing is not a number
            words = words | ~words.any(dim=1, keepdim=True)
        return Prefix(self.start.expand(len(read.embeddings), -1, -1), None, read.embeddings, words)


def _unfit(condition: Condition, kind: str) -> InputError:
    return InputError(f"{type(condition).__name__} does not fit a generator conditioned on {kind!r}")


def _check_length(text: Tensor, length: int) -> None:
    if text.shape[1] != length:
        raise InputError(f"text of {text.shape[1]} positions must have text_length={length}")
