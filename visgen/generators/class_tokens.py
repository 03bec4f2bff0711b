"""Class labels as ids behind a codebook (MaskGIT, RAR): V codes, a mask, the classes, no class."""

from __future__ import annotations

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.generators.conditions import ClassCondition, Condition


def vocabulary_size(codebook_size: int, num_classes: int) -> int:
    """Ids in all: codes, mask, classes, no class."""
    return codebook_size + num_classes + 2


def class_tokens(condition: Condition, codebook_size: int, num_classes: int) -> Tensor:
    """Ids (B,) of a condition.

    Raises:
        InputError: no classes, or a label beyond them.
    """
    if not isinstance(condition, ClassCondition):
        raise InputError(f"{type(condition).__name__} does not fit a generator conditioned on 'class'")
    labels = condition.labels
    if labels.numel() and int(labels.max()) >= num_classes:
        raise InputError(f"label={int(labels.max())} must be below num_classes={num_classes}; -1 is none")
    return codebook_size + 1 + torch.where(labels >= 0, labels, num_classes)
