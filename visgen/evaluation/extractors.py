"""The contract of feature extractors: bytes in, features out, the same for an image in any batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.evaluation import EXTRACTORS
from visgen.evaluation.protocols import EvaluationProtocol


@dataclass(frozen=True)
class ExtractorOptions:
    """Where an extractor runs and where its weights are.

    Attributes:
        device: torch device.
        weights: path of the weights; None = wherever the extractor finds them.
        offline: never download.
    """

    device: str = "cpu"
    weights: Path | None = None
    offline: bool = False


@dataclass(frozen=True, eq=False)
class Features:
    """Features (B, D) and, where the extractor has classes, logits (B, C); float32 on the CPU."""

    features: Tensor
    logits: Tensor | None = None


class FeatureExtractor(Protocol):
    """Turns images into features.

    Attributes:
        weights_sha256: digest of its weights; other weights give numbers that are not comparable.
    """

    weights_sha256: str

    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (B, 3, H, W); raises `InputError` for a size it does not take."""


def load_extractor(protocol: EvaluationProtocol, options: ExtractorOptions) -> FeatureExtractor:
    """The extractor that a protocol names.

    Raises:
        InputError: its weights are nowhere.
    """
    load: Callable[..., Any] = EXTRACTORS.load(protocol.extractor)
    return load(protocol, options)


def at_fixed_shape(run: Callable[[Tensor], Tensor], images: Tensor, rows: int) -> Tensor:
    """`run` of images (B, …), always `rows` at a time, the last ones padded; the result is on the CPU.

    A convolution of another batch shape may differ in the last bit, so scores would depend on the batch size.
    """
    parts = []
    for part in images.split(rows):
        padded = F.pad(part, (0, 0) * (part.ndim - 1) + (0, rows - len(part)))
        parts.append(run(padded)[: len(part)].float().cpu())
    return torch.cat(parts)
