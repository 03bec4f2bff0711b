"""The contract of image generators: a request goes in, tokens come out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from visgen.generators.conditions import Condition
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import ImageTokens, Layout


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One batch of images to generate.

    Args:
        condition: what the images show.
        sampling: the family's knobs (`TokenSampling` for token models).
        noise: source of every random draw; its rows are the rows of the condition.
        layout: token layout, when it differs from the model's own.
        known: (tokens, keep_mask) for editing: keep_mask bool (B or 1, h, w) on the finest grid, True = keep
            the source token, False = make anew.
    """

    condition: Condition
    sampling: TokenSampling
    noise: Noise
    layout: Layout | None = None
    known: tuple[ImageTokens, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class GenerationStep:
    """What `on_step` sees after each step: its index, how many there are, and the state so far.

    `ids` are the step's own token ids; `latents` (B, D, H, W) is the feature that the tokenizer's
    `decode_latents` turns into the image so far (None where a model has none); `logits` are the guided ones
    before any filter.
    """

    index: int
    total: int
    ids: Tensor | None
    latents: Tensor | None
    logits: Tensor | None = None


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """Tokens of the batch, and what making them took. `latents` is set where ids do not determine the image
    (VAR with `smooth`): decode them with the tokenizer's `decode_latents`."""

    tokens: ImageTokens
    stats: dict[str, Any] = field(default_factory=dict)
    latents: Tensor | None = None


OnStep = Callable[[GenerationStep], None]


class ImageGenerator:
    """Mixin of every generator. Concrete classes are `VisgenModel`s too."""

    @abstractmethod
    def loss(self, tokens: ImageTokens, condition: Condition, *, quantizer: Any = None) -> dict[str, Tensor]:
        """Training objective: scalar tensors by name, "loss" the one to minimise."""

    @abstractmethod
    def generate(
        self,
        request: GenerationRequest,
        *,
        quantizer: Any = None,
        strategy: Any = None,
        on_step: OnStep | None = None,
    ) -> GenerationResult:
        """Generate a batch. A generator that needs the tokenizer's quantizer takes it per call, never stores
        it."""
