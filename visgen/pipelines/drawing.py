"""A language model's image spans behind the contracts of text-to-image: the whole toolbox draws with it.

A span is a fixed number of codes behind a prompt that ends in `<img>`: guidance, decoding strategies, seeds
and evaluation work as for any next-token generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.generators.conditions import Condition, PromptCondition
from visgen.generators.next_token import NextTokenGenerator
from visgen.generators.transformers.session import TrunkSession
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.interleaved_spans import left_padded
from visgen.pipelines.language_models import SeedLlama
from visgen.pipelines.seed_prompts import Turn, build_prompt, style_named
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens, Layout
from visgen.tokenizers.wrapping import WrapperConfig

MOST_WORDS_TOLD = 5000  # larger vocabularies spell words, none is unknown


class ImageWriter(nn.Module, NextTokenGenerator):
    """The generator: codes of one image after a prompt.

    Args:
        model: the language model, used as it is.
        layout: where the codes stand in an image.
    """

    def __init__(self, model: SeedLlama, layout: Layout) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    @property
    def config(self) -> WrapperConfig:
        """What pipelines look at."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model."""
        return self.model.dtype

    @property
    def positions(self) -> tuple[int, int] | None:
        """(rows, columns) of a grid; None for a sequence."""
        return (self.layout.h, self.layout.w) if isinstance(self.layout, Grid) else None

    def session(self, condition: Condition, sampling: TokenSampling, entries: int) -> TrunkSession:
        """One generation of the prompts; `entries` = the most that a pass feeds.

        Raises:
            InputError: another kind of condition, or prompts that are too long.
        """
        if not isinstance(condition, PromptCondition):
            raise InputError(f"{type(condition).__name__} does not fit ImageWriter; give a PromptCondition")
        return TrunkSession(self.model.codes_trunk(), condition, sampling, self.layout.length, entries)

    def from_positions(self, ids_BLK: Tensor) -> ImageTokens:
        """Image tokens of ids (B, L, 1)."""
        return ImageTokens(self.layout, ids=ids_BLK[..., 0])

    def as_positions(self, tokens: ImageTokens) -> Tensor:
        """Ids (B, L, 1) of tokens."""
        if tokens.ids is None or tokens.layout != self.layout:
            raise InputError(f"tokens of layout {tokens.layout} do not fit a generator of {self.layout}")
        return tokens.ids[..., None]

    def loss(self, tokens: ImageTokens, condition: Condition, *, quantizer: Any = None) -> dict[str, Tensor]:
        """Refuses: whole sequences are trained, by the objective "seed-language-model"."""
        raise InputError("ImageWriter is not trained; the objective seed-language-model trains its model")


class DrawPrompts:
    """The text component: prompts as the model's style words the wish for an image, up to `<img>`.

    Args:
        model: whose vocabulary and style count.
    """

    encoder: str | None = None

    def __init__(self, model: SeedLlama) -> None:
        self._words, self._style = model.vocabulary, model.settings.style
        self._form = style_named(self._style)
        self.length = model.model.config.max_position_embeddings

    def ids(self, prompt: str) -> list[int]:
        """Ids of one prompt; "" is unconditional.

        Raises:
            InputError: a prompt that holds `<img>` or "<image>".
        """
        asked = Turn("user", self._form.draw.replace("{prompt}", prompt))
        return self._words.encode(build_prompt([asked], self._style), begin=True)

    def check(self, prompts: Sequence[str]) -> None:
        """Raise `InputError` for a prompt that holds tokens of images."""
        for prompt in prompts:
            self.ids(prompt)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the vocabulary lacks, each once, in order."""
        return self._words.unknown_words(prompt)

    def known_words(self) -> list[str]:
        """All words of a small vocabulary; none of one that spells words."""
        words = self._words.known_words()
        return words if len(words) <= MOST_WORDS_TOLD else []

    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> PromptCondition:
        """Left-padded ids (B, T) and masks of the prompts and of what guidance leads away from."""
        away = [""] * len(prompts) if negative_prompts is None else negative_prompts
        sides = [left_padded([self.ids(prompt) for prompt in side]) for side in (prompts, away)]
        (one, other) = sides
        return PromptCondition(one.input_ids, one.mask, other.input_ids, other.mask).to(device)


class RenderedTokenizer(nn.Module, ImageTokenizer):
    """A tokenizer whose tokens a renderer draws, as one tokenizer.

    Args:
        tokenizer: with `decode_embedding`, such as a `SEEDTokenizer`.
        renderer: draws its embeddings; None = tokens cannot be decoded.
    """

    starts_from_noise = True

    def __init__(self, tokenizer: Any, renderer: Any) -> None:
        super().__init__()
        self.tokenizer, self.renderer = tokenizer, renderer

    @property
    def config(self) -> Any:
        """The tokenizer's."""
        return self.tokenizer.config

    @property
    def device(self) -> torch.device:
        """The tokenizer's."""
        return self.tokenizer.device

    @property
    def dtype(self) -> torch.dtype:
        """The tokenizer's."""
        return self.tokenizer.dtype

    @property
    def pixel_size(self) -> int:
        return self.tokenizer.pixel_size if self.renderer is None else self.renderer.pixel_size

    @property
    def layout(self) -> Layout:
        return self.tokenizer.layout

    @property
    def codebook(self) -> Tensor | None:
        return self.tokenizer.codebook

    @property
    def quantizer(self) -> Any:
        return self.tokenizer.quantizer

    @property
    def sampling(self) -> Any:
        """Default sampling of the renderer; None without one."""
        return None if self.renderer is None else self.renderer.sampling

    def preprocess(self, images: Any) -> Tensor:
        """Images as the tokenizer takes them."""
        return self.tokenizer.preprocess(images)

    def encode(self, images: Tensor, **options: Any) -> ImageTokens:
        """The tokenizer's tokens."""
        return self.tokenizer.encode(images, **options)

    def decode(self, tokens: ImageTokens, *, sampling: Any = None, noise: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W) of tokens; raises `InputError` without a renderer."""
        if self.renderer is None:
            raise InputError("this model has no renderer, which draws its tokens: it only reads images")
        return self.tokenizer.decode(tokens, renderer=self.renderer, sampling=sampling, noise=noise)


def decoder_of(tokenizer: Any, renderer: Any) -> Any:
    """What decodes tokens: the tokenizer itself, or it and its renderer as one."""
    return RenderedTokenizer(tokenizer, renderer) if hasattr(tokenizer, "decode_embedding") else tokenizer


def check_vocabulary(tokenizer: Any, model: SeedLlama) -> None:
    """Raise `InputError` unless the tokenizer's images are those of the model's vocabulary."""
    images, codes = model.vocabulary.images, tokenizer.codebook
    made = (tokenizer.layout.length, None if codes is None else len(codes))
    if made != (images.length, images.num_codes):
        raise InputError(
            f"tokenizer makes {made[0]} tokens of {made[1]} codes, but the language model reads images of "
            f"{images.length} tokens of {images.num_codes}"
        )
