"""Processors of the three families over a vocabulary of a few words; ids agree with the tiny models."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    ChameleonImageProcessor,
    ChameleonProcessor,
    Emu3ImageProcessor,
    Emu3Processor,
    JanusImageProcessor,
    JanusProcessor,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<boi>", "<eoi>", "<image>", "<eol>", "<eof>", "<wrap>", "<sep>", "<unk>"]
WORDS = ["a", "red", "cat", "dog", "on", "mat", "user", "bot", ".", "worst", "best", "size"]
TEMPLATE = (
    "{% for m in messages %}user {{ m['content'][0]['text'] }} {% endfor %}"
    "{% if add_generation_prompt %}bot {% endif %}"
)


def word_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """Words at spaces; with `bos`, `<s>` in front of every text, as Llama's tokenizer does."""
    vocabulary = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        sep_token="<sep>",
        extra_special_tokens={
            "image_token": "<image>",
            "boi_token": "<boi>",
            "eoi_token": "<eoi>",
            "image_wrapper_token": "<wrap>",
            "eof_token": "<eof>",
        },
    )


def janus_processor() -> JanusProcessor:
    return JanusProcessor(
        JanusImageProcessor(), word_tokenizer(), chat_template=TEMPLATE, num_image_tokens=16
    )


def emu3_processor() -> Emu3Processor:
    return Emu3Processor(Emu3ImageProcessor(), word_tokenizer(bos=False))


def chameleon_processor() -> ChameleonProcessor:
    return ChameleonProcessor(ChameleonImageProcessor(), word_tokenizer(), image_seq_length=16)


def ids_of(text: str) -> list[int]:
    """Ids of words at spaces."""
    names: list[Any] = SPECIAL + WORDS
    return [names.index(word) if word in names else names.index("<unk>") for word in text.split()]
