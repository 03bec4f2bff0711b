"""Features of a text encoder from transformers (T5, CLIP, …), loaded when first used."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError, shown
from visgen.generators.conditions import TextCondition
from visgen.nn.model import read_json
from visgen.pipelines.captions import clean_caption

CONFIG_NAME = "text_features.json"
OPTIONS = ("left_padding", "clean", "zero_padding")


class TextFeatures:
    """Prompts → last hidden states of a text encoder.

    Args:
        encoder: hub id or folder of a transformers text encoder; only safetensors weights and no remote code.
        max_length: tokens that a prompt is padded to.
        left_padding: padding stands before the prompt instead of behind it.
        clean: prompts are cleaned as in `visgen.pipelines.captions` first.
        zero_padding: features of padding are zero.
    """

    def __init__(
        self,
        encoder: str,
        max_length: int,
        *,
        left_padding: bool = False,
        clean: bool = False,
        zero_padding: bool = False,
    ) -> None:
        if not isinstance(encoder, str) or not encoder:
            raise InputError(f"encoder={encoder!r} must be the name or folder of a transformers text encoder")
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise InputError(f"max_length={max_length!r} must be an integer of 1 or more")
        self.encoder = encoder
        self.max_length = max_length
        self.left_padding, self.clean, self.zero_padding = left_padding, clean, zero_padding
        self._tokenizer: Any = None
        self._model: Any = None

    @property
    def length(self) -> int:
        """Number of positions of the condition."""
        return self.max_length

    @property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = self._load(AutoTokenizer)
        return self._tokenizer

    @property
    def model(self) -> torch.nn.Module:
        """The encoder, in evaluation mode."""
        if self._model is None:
            self._model = self._load(_encoder_class(self._load(_auto_config())), use_safetensors=True).eval()
        return self._model

    def _load(self, cls: Any, **options: Any) -> Any:
        try:
            return cls.from_pretrained(self.encoder, **options)
        except (OSError, ValueError) as error:
            raise InputError(
                f"encoder={self.encoder!r} cannot be loaded ({(str(error) or 'unknown').splitlines()[0]}); "
                "give the hub id of a transformers text encoder, or the folder of one"
            ) from error

    def known_words(self) -> list[str]:
        """A text encoder reads any word: nothing to list."""
        return []

    def unknown_words(self, prompt: str) -> list[str]:
        """A text encoder reads any word: always empty."""
        return []

    def check(self, prompts: Sequence[str]) -> None:
        """Raise `InputError` for the first prompt of more than `max_length` tokens."""
        for prompt in dict.fromkeys(prompts):
            count = len(self.tokenizer(self._read(prompt)).input_ids)
            if count > self.max_length:
                raise InputError(
                    f"prompt {shown(prompt)} has {count:,} tokens; this model reads at most {self.max_length}"
                )

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> TextCondition:
        """Embeddings (B, max_length, D) and mask (B, max_length), True = a token; "" is unconditional.

        Each prompt is encoded once and alone, so that its features do not depend on the others.

        Raises:
            InputError: a negative prompt (guidance leads away from the empty one), or too long a prompt.
        """
        if negative_prompts is not None and any(negative_prompts):
            raise InputError("negative_prompt is not known to models of text features; leave it out")
        self.check(prompts)
        self.model.to(device)
        features = {prompt: self._features(prompt, device) for prompt in dict.fromkeys(prompts)}
        embeddings, masks = zip(*(features[prompt] for prompt in prompts), strict=True)
        blank = torch.tensor([not prompt.strip() for prompt in prompts], device=device)
        return TextCondition(torch.stack(embeddings), torch.stack(masks), blank if blank.any() else None)

    def _read(self, prompt: str) -> str:
        """What the encoder reads of a prompt."""
        return clean_caption(prompt) if self.clean else prompt

    def _features(self, prompt: str, device: torch.device | str) -> tuple[Tensor, Tensor]:
        text = self._read(prompt)
        inputs = self.tokenizer(text, padding="max_length", max_length=self.max_length, return_tensors="pt")
        inputs = inputs.to(device)
        mask = inputs.attention_mask
        states = self.model(input_ids=inputs.input_ids, attention_mask=mask).last_hidden_state[0]
        mask = mask[0].bool()
        states, mask = pad_left(states, mask) if self.left_padding else (states, mask)
        return states * mask[:, None] if self.zero_padding else states, mask

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the encoder's name and the options; the encoder itself is not copied."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {"encoder": self.encoder, "max_length": self.max_length}
        config |= {name: True for name in OPTIONS if getattr(self, name)}
        (Path(folder) / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> TextFeatures:
        """Read a folder of `save_pretrained`; loads no encoder yet."""
        path = Path(folder) / CONFIG_NAME
        if not path.is_file():
            raise InputError(
                f"folder {str(folder)!r} has no {CONFIG_NAME}; give one written by save_pretrained"
            )
        config = read_json(path)
        options = {name: config.get(name, False) is True for name in OPTIONS}
        return cls(config.get("encoder"), config.get("max_length"), **options)  # type: ignore[arg-type] # it checks both


def pad_left(features_TD: Tensor, mask_T: Tensor) -> tuple[Tensor, Tensor]:
    """Features (T, D) and mask (T,) of one prompt with its words at the end instead of the start."""
    shift = len(mask_T) - int(mask_T.sum())
    return features_TD.roll(shift, dims=0), mask_T.roll(shift)


def _auto_config() -> Any:
    from transformers import AutoConfig

    return AutoConfig


def _encoder_class(config: Any) -> Any:
    """The text encoder of a configuration: of T5 only its encoder, of CLIP only its text half."""
    import transformers

    if config.model_type == "clip":
        return transformers.CLIPTextModel
    if type(config) in transformers.AutoModelForTextEncoding._model_mapping:
        return transformers.AutoModelForTextEncoding
    return transformers.AutoModel
