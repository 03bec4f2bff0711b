"""A vocabulary of words and image codes: a tokenizer of the transformers library that knows SEED's tokens."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from visgen.errors import InputError
from visgen.pipelines.seed_prompts import BEGIN, BOS, END, IMAGE, ImageIds, insert_codes

EOS, PAD, UNKNOWN = "</s>", "<pad>", "<unk>"
FIRST_CODE = "<img_00000>"


class SeedVocabulary:
    """Texts with images become ids, and back.

    Args:
        tokenizer: with `<s>`, `</s>`, `<img>`, `</img>` and the codes `<img_00000>` … in line.
        image_length: codes of an image.

    Raises:
        InputError: one of these tokens is missing.
    """

    def __init__(self, tokenizer: Any, image_length: int = 32) -> None:
        if image_length < 1:
            raise InputError(f"image_length={image_length} must be 1 or more")
        self.tokenizer = tokenizer
        words = tokenizer.get_vocab()
        begin, end, first = (_known(words, token) for token in (BEGIN, END, FIRST_CODE))
        self.images = ImageIds(first, _codes_in_line(words, first), begin, end, image_length)
        self.bos, self.eos = _known(words, BOS), _known(words, EOS)
        pad = words.get(PAD, tokenizer.unk_token_id)
        self.pad: int = self.eos if pad is None else pad

    @classmethod
    def from_words(cls, words: Iterable[str], num_codes: int, image_length: int = 32) -> SeedVocabulary:
        """A closed vocabulary of lower-case words: format tokens, words, then codes.

        Raises:
            InputError: no words, or an entry that is not a single word.
        """
        unique = list(dict.fromkeys(word.lower() for word in words))
        codes = [f"<img_{code:05d}>" for code in range(num_codes)]
        names = [PAD, UNKNOWN, BOS, EOS, BEGIN, END, *unique, *codes]
        fast = PreTrainedTokenizerFast(
            tokenizer_object=word_backend(unique, {name: i for i, name in enumerate(names)}),
            bos_token=BOS,
            eos_token=EOS,
            pad_token=PAD,
            unk_token=UNKNOWN,
            additional_special_tokens=[BEGIN, END],
        )
        return cls(fast, image_length)

    @property
    def size(self) -> int:
        """Ids there are: 1 + the largest."""
        return 1 + max(self.tokenizer.get_vocab().values())

    def encode(self, prompt: str, images: Sequence[Sequence[int]] = (), *, begin: bool = False) -> list[int]:
        """Ids of `<s>`, a prompt whose "<image>"s are `images`, and `<img>` with `begin`.

        Raises:
            InputError: more or fewer images than places, a code outside the codebook, or `<img>` in a text.
        """
        text = f"{BOS}{prompt}".replace(IMAGE, BEGIN + END)
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return insert_codes(ids, images, self.images) + [self.images.begin] * begin

    def words(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts alone, without any format token."""
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def unknown_words(self, text: str) -> list[str]:
        """Words of a text that the vocabulary can neither look up nor spell, each once, in order."""
        words = list(dict.fromkeys(text.split()))
        unknown = self.tokenizer.unk_token_id
        found = zip(words, self.words(words), strict=True)
        return [word for word, ids in found if unknown is not None and unknown in ids]

    def known_words(self) -> list[str]:
        """All entries that are neither codes nor format tokens, in the order of their ids."""
        ids, images = self.tokenizer.get_vocab(), self.images
        special = set(self.tokenizer.all_special_tokens)
        codes = range(images.first_code, images.first_code + images.num_codes)
        return [
            word
            for word in sorted(ids, key=ids.__getitem__)
            if word not in special and ids[word] not in codes
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without format tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer as the transformers library does."""
        self.tokenizer.save_pretrained(str(folder))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], image_length: int = 32) -> SeedVocabulary:
        """Read a folder of the transformers library; no code in it is run.

        Raises:
            InputError: no tokenizer there, or one without SEED's tokens.
        """
        return cls(load_tokenizer(folder), image_length)


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """The tokenizer of a folder: `tokenizer.json`, or LLaMA's sentencepiece file with added tokens.

    Raises:
        InputError: neither is there, or it cannot be read.
    """
    import transformers

    files = {"tokenizer.json": "PreTrainedTokenizerFast", "tokenizer.model": "LlamaTokenizer"}
    name = next((name for name in files if (Path(folder) / name).is_file()), None)
    if name is None:
        raise InputError(f"folder {str(folder)!r} has no tokenizer.json and no tokenizer.model")
    try:
        return getattr(transformers, files[name]).from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library raises plain ones on what it cannot parse
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"folder {str(folder)!r} holds no readable tokenizer ({told})") from error


def word_backend(words: Sequence[str], ids: dict[str, int]) -> Tokenizer:
    """Whole words at white space, punctuation left out: no text can spell a code.

    Raises:
        InputError: no words, or an entry that is not a single word.
    """
    backend = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="removed")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    for word in words:
        if [one for one, _ in backend.pre_tokenizer.pre_tokenize_str(word)] != [word]:
            raise InputError(f"words: {word!r} is not one word without punctuation")
    if not words:
        raise InputError("words is empty; give at least one word")
    return backend


def _known(words: dict[str, int], token: str) -> int:
    if token not in words:
        raise InputError(f"tokenizer has no token {token!r}; SEED's vocabulary is needed")
    return words[token]


def _codes_in_line(words: dict[str, int], first: int) -> int:
    """How many codes there are; raises `InputError` where their ids are not in line."""
    count = 0
    while (id := words.get(f"<img_{count:05d}>")) is not None:
        if id != first + count:
            raise InputError(f"tokenizer has <img_{count:05d}> at id {id}, not at {first + count}")
        count += 1
    return count
