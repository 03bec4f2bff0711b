"""The contract of image generators: a request goes in, tokens come out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from visgen.errors import InputError, shown
from visgen.generators.conditions import Condition
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import ImageTokens, Layout


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One batch of images to generate.

    Args:
        condition: what the images show.
        sampling: the family's knobs, an `ImageGenerator.sampling_family` (`TokenSampling` for token models).
        noise: source of every random draw; its rows are the rows of the condition.
        layout: token layout, when it differs from the model's own.
        known: (tokens, keep_mask) for editing: keep_mask bool (B or 1, h, w) on the finest grid, True = keep
            the source token, False = make anew.
        num_tokens: stop after so many tokens, 1 … `ImageGenerator.most_tokens`: a coarser image; None = all.
    """

    condition: Condition
    sampling: Any
    noise: Noise
    layout: Layout | None = None
    known: tuple[ImageTokens, Tensor] | None = None
    num_tokens: int | None = None


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
    """Mixin of every generator. Concrete classes are `VisgenModel`s too.

    Attributes:
        sampling_family: dataclass of its sampling options, with a default for each.
        continuous: whether its tokens are latents, not ids.
    """

    sampling_family: ClassVar[type] = TokenSampling
    continuous: ClassVar[bool] = False

    @property
    def most_tokens(self) -> int | None:
        """The largest `num_tokens` of a request; None = it always makes all tokens of its layout."""
        return None

    def check_num_tokens(self, num_tokens: int | None) -> None:
        """Raise `InputError` for a number of tokens that this generator cannot stop at."""
        most = self.most_tokens
        if num_tokens is None:
            return
        if most is None:
            raise InputError(
                f"num_tokens={shown(num_tokens)}: this {type(self).__name__} always makes all its "
                "tokens; only generators over 1-D sequences can stop early"
            )
        if isinstance(num_tokens, bool) or not isinstance(num_tokens, int) or not 1 <= num_tokens <= most:
            raise InputError(f"num_tokens={shown(num_tokens)} must be an integer from 1 to {most}")

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
