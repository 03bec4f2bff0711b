"""Prompts in the wording that Janus, Emu3, Anole and Lumina-mGPT were trained on, as ids of their own."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.generators.conditions import PromptCondition
from visgen.tokenizers.tokens import Grid
from visgen.tokenizers.wrapping import read_settings, write_settings

Text = TypeVar("Text", bound="TransformersPrompts")
Ids = list[int]

EMU3_GRID = Grid(90, 90)  # 720 × 720 pixels
LUMINA_GRID = Grid(48, 48)  # 768 × 768 pixels


class TransformersPrompts:
    """A processor of the transformers library as the text component of a pipeline.

    Args:
        processor: of the model's family, with its tokenizer.

    Raises:
        InputError: another processor.
    """

    processor_class: ClassVar[str]

    def __init__(self, processor: Any) -> None:
        if type(processor).__name__ != self.processor_class:
            raise InputError(
                f"processor is a {type(processor).__name__}; {type(self).__name__} needs a "
                f"{self.processor_class}"
            )
        self.processor = processor

    @abstractmethod
    def ids(self, prompt: str) -> Ids:
        """The whole prompt, begin of image included."""

    @abstractmethod
    def unconditional(self, ids: Ids) -> Ids:
        """What guidance leads away from where there is no negative prompt, given the prompt's ids."""

    def check(self, prompts: Sequence[str]) -> None:
        """Nothing: the generator refuses prompts that are too long for it."""

    def unknown_words(self, prompt: str) -> list[str]:
        """None: these vocabularies spell every word."""
        return []

    def known_words(self) -> list[str]:
        """None in particular."""
        return []

    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> PromptCondition:
        """Left-padded ids (B, T) and masks of the prompts and of what guidance leads away from."""
        rows = [self.ids(prompt) for prompt in prompts]
        if negative_prompts is None:
            negatives = [self.unconditional(row) for row in rows]
        else:
            negatives = [self.ids(prompt) for prompt in negative_prompts]
        return PromptCondition(*_left_padded(rows), *_left_padded(negatives)).to(device)

    def _word(self, token: str) -> int:
        """Id of one token.

        Raises:
            InputError: the tokenizer does not know it.
        """
        tokenizer = self.processor.tokenizer
        word = tokenizer.convert_tokens_to_ids(token)
        if word is None or word == tokenizer.unk_token_id:
            raise InputError(f"the processor's tokenizer has no token {token!r}, which prompts need")
        return word

    def _words(self, text: str) -> Ids:
        return list(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments beside the processor."""
        return {}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the processor as the transformers library does, and the settings."""
        self.processor.save_pretrained(str(folder))
        write_settings(folder, self.settings)

    @classmethod
    def from_pretrained(
        cls: type[Text], folder: str | os.PathLike[str], settings: Mapping[str, Any] | None = None
    ) -> Text:
        """Read a processor's folder; settings as given, None = as saved.

        Raises:
            InputError: no readable processor, or one of another family.
        """
        from transformers import AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(str(Path(folder)), local_files_only=True)
        except Exception as error:  # the library raises plain ones on what it cannot read
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"folder {str(folder)!r} holds no readable processor ({reason})") from error
        return cls(processor, **(read_settings(folder) if settings is None else settings))


class JanusPrompts(TransformersPrompts):
    """One turn of the processor's chat template, then begin of image.

    Without a negative prompt guidance leads away from the same prompt with padding for words, which the model
    sees (as in its own `generate`).
    """

    processor_class = "JanusProcessor"

    def ids(self, prompt: str) -> Ids:
        if not self.processor.chat_template:
            raise InputError("the processor has no chat_template, in which Janus reads its prompts")
        turn = {"role": "user", "content": [{"type": "text", "text": prompt}]}
        text = self.processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        return self.processor(text=text, generation_mode="image", return_tensors="pt")["input_ids"][
            0
        ].tolist()

    def unconditional(self, ids: Ids) -> Ids:
        tokenizer = self.processor.tokenizer
        kept = {tokenizer.bos_token_id, self._word(self.processor.image_start_token)}
        return [word if word in kept else tokenizer.pad_token_id for word in ids]


class Emu3Prompts(TransformersPrompts):
    """The prompt, what the authors add to it, and the size of the image.

    Args:
        processor: an `Emu3Processor`.
        grid: ids of the image, as of the generator.
        suffix: stands behind every prompt; "" for none.
        negative: what guidance leads away from where no negative prompt is given.
    """

    processor_class = "Emu3Processor"

    SUFFIX = " masterpiece, film grained, best quality."
    NEGATIVE = (
        "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, "
        "worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
    )

    def __init__(
        self, processor: Any, grid: Grid = EMU3_GRID, suffix: str = SUFFIX, negative: str = NEGATIVE
    ) -> None:
        super().__init__(processor)
        self.grid, self.suffix, self.negative = grid, suffix, negative

    def ids(self, prompt: str) -> Ids:
        return self._with_size(prompt + self.suffix)

    def unconditional(self, ids: Ids) -> Ids:
        return self._with_size(self.negative)

    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> PromptCondition:
        """As of every text component; negative prompts have no suffix."""
        negatives = [self.negative] * len(prompts) if negative_prompts is None else negative_prompts
        rows = [self.ids(prompt) for prompt in prompts]
        others = [self._with_size(prompt) for prompt in negatives]
        return PromptCondition(*_left_padded(rows), *_left_padded(others)).to(device)

    def _with_size(self, text: str) -> Ids:
        p = self.processor
        size = f"{p.image_start_token}{self.grid.h}*{self.grid.w}{p.fake_token_around_image}"
        return self._words(f"{p.bos_token}{text}{size}")

    @property
    def settings(self) -> dict[str, Any]:
        return {"grid": self.grid, "suffix": self.suffix, "negative": self.negative}


class ChameleonPrompts(TransformersPrompts):
    """Words, end of turn, begin of image; for Lumina-mGPT an instruction before them and the size behind.

    Args:
        processor: a `ChameleonProcessor`.
        format: "anole" or "lumina", as of the generator.
        grid: ids of the image, for "lumina".
        size_id: id of the size token 0 in the model's vocabulary; size n (in pairs of ids) is `size_id` + n.
        pixels_per_id: for the instruction, which names the size in pixels.
    """

    processor_class = "ChameleonProcessor"

    def __init__(
        self,
        processor: Any,
        format: str = "anole",
        grid: Grid = LUMINA_GRID,
        size_id: int = 8804,
        pixels_per_id: int = 16,
    ) -> None:
        super().__init__(processor)
        if format not in ("anole", "lumina"):
            raise InputError(f"format={format!r} must be one of anole, lumina")
        self.format, self.grid, self.size_id, self.pixels_per_id = format, grid, size_id, pixels_per_id

    def ids(self, prompt: str) -> Ids:
        if self.format == "lumina":
            h, w = self.grid.h * self.pixels_per_id, self.grid.w * self.pixels_per_id
            prompt = f"Generate an image of {w}x{h} according to the following prompt:\n{prompt}"
        tokenizer = self.processor.tokenizer
        text = [tokenizer.bos_token_id, *self._words(prompt), tokenizer.sep_token_id]
        return [*text, *self._begin_of_image()]

    def unconditional(self, ids: Ids) -> Ids:
        """Anole: begin of text and of image. Lumina-mGPT: what stands behind the prompt's words."""
        tokenizer = self.processor.tokenizer
        first = tokenizer.bos_token_id if self.format == "anole" else tokenizer.sep_token_id
        return [first, *self._begin_of_image()]

    def _begin_of_image(self) -> Ids:
        begin = [self.processor.image_start_token_id]
        if self.format == "lumina":
            begin += [self.size_id + self.grid.h // 2, self.size_id + self.grid.w // 2]
        return begin

    @property
    def settings(self) -> dict[str, Any]:
        names = ("format", "grid", "size_id", "pixels_per_id")
        return {name: getattr(self, name) for name in names}


def _left_padded(rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, T), padding (any id, masked) in front."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) >= width - lengths[:, None]
