"""A language model that reads and writes images as words: `LlamaForCausalLM` with SEED's vocabulary."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.generators.transformers.trunk import WordTrunk
from visgen.nn.pretrained import load_pretrained, save_pretrained
from visgen.pipelines.seed_prompts import style_named
from visgen.pipelines.seed_vocabulary import SeedVocabulary
from visgen.schema import read
from visgen.tokenizers.wrapping import WrapperConfig, read_settings, write_settings

CLASS = "LlamaForCausalLM"


@dataclass(frozen=True)
class LanguageSettings:
    """What the files of the transformers library do not say.

    Args:
        style: a name of `visgen.pipelines.seed_prompts.STYLES`.
        image_length: codes of an image.
    """

    style: str = "vicuna"
    image_length: int = 32

    def __post_init__(self) -> None:
        style_named(self.style)


@dataclass(frozen=True)
class LanguageModelSizes:
    """Sizes of a new model.

    Args:
        mlp_size: width of the gated MLP.
        max_length: longest sequence.
        tie_embeddings: one matrix for the embeddings and the head.
    """

    hidden_size: int = 192
    depth: int = 6
    num_heads: int = 3
    mlp_size: int = 512
    max_length: int = 256
    tie_embeddings: bool = False


class SeedLlama(nn.Module):
    """A `LlamaForCausalLM` and its vocabulary, saved as one folder of the transformers library.

    Args:
        model: with SDPA attention; used as it is.
        vocabulary: of words and codes.
        settings: how prompts are written.

    Raises:
        InputError: another class of model, or fewer embeddings than the vocabulary has ids.
    """

    def __init__(self, model: Any, vocabulary: SeedVocabulary, settings: LanguageSettings) -> None:
        super().__init__()
        if type(model).__name__ != CLASS:
            raise InputError(f"model is a {type(model).__name__}; SeedLlama needs a {CLASS}")
        if model.config.vocab_size < vocabulary.size:
            raise InputError(
                f"model has {model.config.vocab_size} embeddings, but the vocabulary {vocabulary.size} ids"
            )
        self.model, self.vocabulary, self.settings = model, vocabulary, settings

    @classmethod
    def build(cls, sizes: LanguageModelSizes, vocabulary: SeedVocabulary, style: str = "plain") -> SeedLlama:
        """A model with random weights, as large as its vocabulary."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=vocabulary.size,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.mlp_size,
            num_hidden_layers=sizes.depth,
            num_attention_heads=sizes.num_heads,
            max_position_embeddings=sizes.max_length,
            tie_word_embeddings=sizes.tie_embeddings,
            bos_token_id=vocabulary.bos,
            eos_token_id=vocabulary.eos,
            pad_token_id=vocabulary.pad,
            attn_implementation="sdpa",
        )
        return cls(LlamaForCausalLM(config), vocabulary, LanguageSettings(style, vocabulary.images.length))

    @property
    def config(self) -> WrapperConfig:
        """What pipelines look at; the model's own is `model.config`."""
        return WrapperConfig(self.vocabulary.images.num_codes)

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model."""
        return self.model.dtype

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits (B, T, V) of the id after each; rows are padded on the right, so that nothing is masked."""
        return self.model(input_ids=ids_BT, use_cache=False).logits

    def losses(self, ids_BT: Tensor) -> Tensor:
        """Cross-entropy (B, T − 1) of every id but the first, in float32."""
        logits = self(ids_BT[:, :-1])
        flat = F.cross_entropy(logits.flatten(0, 1).float(), ids_BT[:, 1:].flatten(), reduction="none")
        return flat.view(len(ids_BT), -1)

    def words_trunk(self) -> WordTrunk:
        """The way into the model, its head over the whole vocabulary."""
        return self._trunk(range(self.model.config.vocab_size))

    def codes_trunk(self) -> WordTrunk:
        """The way into the model, its head over image codes alone."""
        images = self.vocabulary.images
        return self._trunk(range(images.first_code, images.first_code + images.num_codes))

    def _trunk(self, ids: Sequence[int]) -> WordTrunk:
        return WordTrunk(self.model.model, self.model.lm_head, ids)

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        """Write weights, tokenizer and settings; floats as `dtype` if given."""
        with quiet():
            save_pretrained(self.model, folder, dtype)
        self.vocabulary.save_pretrained(folder)
        write_settings(folder, asdict(self.settings))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        settings: LanguageSettings | None = None,
        vocabulary: SeedVocabulary | None = None,
    ) -> SeedLlama:
        """Load a local folder of the transformers library, safetensors only.

        Args:
            folder: model and, unless `vocabulary` is given, tokenizer.
            dtype: None = float32, "auto" = as stored, or a torch dtype.
            settings: None = those that `save_pretrained` wrote.
            vocabulary: where it lies in another folder, as the official one does.

        Raises:
            InputError: weights that are missing or do not fit, a tokenizer without SEED's tokens.
        """
        if settings is None:
            settings = read(LanguageSettings, read_settings(folder), f"{folder}/visgen.json")
        words = vocabulary or SeedVocabulary.from_pretrained(folder, settings.image_length)
        with quiet():
            model = load_pretrained(CLASS, folder, dtype)
        return cls(model, words, settings)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar of the transformers library, whose loading and saving of small models shows some."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
