"""A multimodal language model of the transformers library and its processor, as one component of a pipeline.

`build` makes a small LLaVA (2310.03744) from scratch: a CLIP tower, a projector and a Llama over a closed
vocabulary of words. Its folder is one of the transformers library, which loads it without visgen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from visgen.errors import InputError, shown
from visgen.nn.pretrained import load_pretrained, save_pretrained
from visgen.pipelines.language_models import quiet
from visgen.pipelines.seed_prompts import BOS, IMAGE
from visgen.pipelines.seed_vocabulary import EOS, PAD, UNKNOWN, word_backend

CLASS = "AutoModelForImageTextToText"
# `<s>`, images and texts in the order of the message, whatever the roles: a model of one question
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class VisionLanguageSizes:
    """Sizes of a new model.

    Args:
        image_size, patch_size: of the tower, in pixels; (image_size / patch_size)² vision tokens.
        vision_width, vision_depth, vision_heads, vision_mlp: the tower.
        hidden_size, depth, num_heads, mlp_size: the language model.
        max_length: longest sequence, image included.
    """

    image_size: int = 96
    patch_size: int = 8
    vision_width: int = 128
    vision_depth: int = 4
    vision_heads: int = 4
    vision_mlp: int = 512
    hidden_size: int = 128
    depth: int = 6
    num_heads: int = 4
    mlp_size: int = 384
    max_length: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"model.{name}={value} must be 1 or more")
        if self.image_size % self.patch_size:
            raise InputError(
                f"model.patch_size={self.patch_size} does not divide image_size={self.image_size}"
            )
        for width, heads in (("vision_width", "vision_heads"), ("hidden_size", "num_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise InputError(
                    f"model.{heads}={getattr(self, heads)} does not divide {width}={getattr(self, width)}"
                )

    @property
    def grid(self) -> int:
        """Patches on a side."""
        return self.image_size // self.patch_size


class VisionLanguageModel(nn.Module):
    """A …ForConditionalGeneration that reads images, and the processor that makes its inputs.

    Args:
        model: of the transformers library.
        processor: its `AutoProcessor`.

    Raises:
        InputError: a processor without a chat template, which says how a question is asked.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        if not getattr(processor, "chat_template", None):
            raise InputError(
                f"{type(processor).__name__} has no chat template, which says how this model is asked; "
                "give a model that was tuned to instructions"
            )
        self.model, self.processor = model, processor

    @classmethod
    def build(cls, sizes: VisionLanguageSizes, words: Iterable[str]) -> VisionLanguageModel:
        """A LLaVA with random weights over a closed vocabulary of lower-case words.

        Raises:
            InputError: no words, or an entry that is not a single word.
        """
        from transformers import LlavaForConditionalGeneration

        tokenizer = _tokenizer(words)
        model = LlavaForConditionalGeneration(_config(sizes, tokenizer))
        model.generation_config.update(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return cls(model, _processor(sizes, tokenizer))

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model."""
        return self.model.dtype

    @property
    def tokenizer(self) -> Any:
        """The processor's."""
        return self.processor.tokenizer

    def unknown_words(self, text: str) -> list[str]:
        """Words that the vocabulary can neither look up nor spell, each once, in order."""
        unknown, words = self.tokenizer.unk_token_id, list(dict.fromkeys(text.split()))
        ids = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        return [word for word, own in zip(words, ids, strict=True) if unknown is not None and unknown in own]

    def known_words(self) -> list[str]:
        """Words of a closed vocabulary, in the order of their ids; of another one, its pieces."""
        ids, special = self.tokenizer.get_vocab(), set(self.tokenizer.all_special_tokens)
        return [word for word in sorted(ids, key=ids.__getitem__) if word not in special]

    def inputs(self, images: Sequence[Image.Image], questions: Sequence[str]) -> Any:
        """The model's inputs for one question per image, padded on the left, on the model's device.

        Returns:
            A mapping: `input_ids` (B, T), `attention_mask` (B, T), `pixel_values`, and whatever else the
            family needs; floats in the model's type.
        """
        prompts = [self.prompt(question) for question in questions]
        made = self.processor(
            images=list(images), text=prompts, padding=True, padding_side="left", return_tensors="pt"
        )
        return made.to(self.device, self.dtype)

    def prompt(self, question: str) -> str:
        """The text that asks a question about one image."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def answers(self, ids_BT: Tensor) -> list[str]:
        """The texts of ids that were generated behind the prompts."""
        texts = self.tokenizer.batch_decode(ids_BT, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        """Write weights, configuration, tokenizer and processor; floats as `dtype` if given."""
        with quiet():
            save_pretrained(self.model, folder, dtype)
        self.processor.save_pretrained(str(folder))

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, dtype: torch.dtype | str | None = None
    ) -> VisionLanguageModel:
        """Load a local folder of the transformers library, safetensors only; no code in it is run.

        Args:
            folder: of a model that reads images and writes text, and its processor.
            dtype: None = float32, "auto" = as stored, or a torch dtype.

        Raises:
            InputError: files that are missing, cannot be read or do not fit, or no chat template.
        """
        with quiet():
            model = load_pretrained(CLASS, folder, dtype)
        return cls(model, _load_processor(Path(folder)))


def _load_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # that library raises plain ones on what it cannot read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"folder {shown(str(folder))} holds no readable processor ({reason})") from error


def _tokenizer(words: Iterable[str]) -> Any:
    """Format tokens, then the words."""
    from transformers import PreTrainedTokenizerFast

    unique = list(dict.fromkeys(word.lower() for word in words))
    names = [PAD, UNKNOWN, BOS, EOS, IMAGE, *unique]
    return PreTrainedTokenizerFast(
        tokenizer_object=word_backend(unique, {name: i for i, name in enumerate(names)}),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE],
        padding_side="left",
    )


def _config(sizes: VisionLanguageSizes, tokenizer: Any) -> Any:
    """The tower's last layer is read, not the last but one as in LLaVA: none is computed in vain."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        hidden_size=sizes.vision_width,
        projection_dim=sizes.vision_width,
        num_hidden_layers=sizes.vision_depth,
        num_attention_heads=sizes.vision_heads,
        intermediate_size=sizes.vision_mlp,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.mlp_size,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.num_heads,
        max_position_embeddings=sizes.max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=sizes.grid**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",  # without CLS
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )


def _processor(sizes: VisionLanguageSizes, tokenizer: Any) -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    size, half = sizes.image_size, [0.5] * 3
    images = CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=half,
        image_std=half,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=sizes.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLS, which the strategy drops again
        chat_template=TEMPLATE,
    )
