"""A generator's own vocabulary: words become ids. Stored as an ordinary transformers tokenizer folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from visgen.errors import InputError, shown
from visgen.generators.conditions import PromptCondition

PAD, UNKNOWN = "[PAD]", "[UNK]"  # ids 0 and 1
DEFAULT_LENGTH = 24
MAX_LENGTH = 4096  # transformers writes 1e30 for a tokenizer without a length


class WordVocabulary:
    """Lower-case words, split at white space, punctuation left out; prompts are padded to a fixed length.

    Args:
        tokenizer: a word-level tokenizer with `[PAD]` and `[UNK]`, its `model_max_length` the fixed length;
            `from_words` builds one.

    Raises:
        InputError: another kind of tokenizer, or no length.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = tokenizer.backend_tokenizer
        words = backend.normalizer is not None and backend.pre_tokenizer is not None
        if not words or not {PAD, UNKNOWN} <= tokenizer.get_vocab().keys():
            raise InputError(
                f"tokenizer is no word-level one with {PAD} and {UNKNOWN}; build one with from_words"
            )
        length = tokenizer.model_max_length
        if not isinstance(length, (int, float)) or not 1 <= length <= MAX_LENGTH:
            raise InputError(f"model_max_length={shown(length)} must be in 1 … {MAX_LENGTH}")
        self.tokenizer = tokenizer
        self.length = int(length)

    @classmethod
    def from_words(cls, words: Iterable[str], length: int = DEFAULT_LENGTH) -> WordVocabulary:
        """A vocabulary of these words; ids follow their order, after `[PAD]` = 0 and `[UNK]` = 1.

        Raises:
            InputError: no words, or an entry that is not a single word.
        """
        unique = list(dict.fromkeys(word.lower() for word in words))
        backend = _backend({PAD: 0, UNKNOWN: 1} | {word: i for i, word in enumerate(unique, start=2)})
        for word in unique:
            if _split(backend, word) != [word]:
                raise InputError(f"words: {word!r} is not one word without punctuation")
        if not unique:
            raise InputError("words is empty; give at least one word")
        fast = PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN, model_max_length=length
        )
        return cls(fast)

    @property
    def vocab_size(self) -> int:
        """Number of ids, `[PAD]` and `[UNK]` among them."""
        return len(self.tokenizer)

    def known_words(self) -> list[str]:
        """All words, in the order of their ids."""
        ids = self.tokenizer.get_vocab()
        return [word for word in sorted(ids, key=ids.__getitem__) if word not in (PAD, UNKNOWN)]

    def words(self, prompt: str) -> list[str]:
        """The words of a prompt, as they are looked up."""
        return _split(self.tokenizer.backend_tokenizer, prompt)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the vocabulary lacks, each once, in order."""
        known = self.tokenizer.get_vocab()
        return [word for word in dict.fromkeys(self.words(prompt)) if word not in known]

    def check(self, prompts: Sequence[str]) -> None:
        """Raise `InputError` for the first prompt of more than `length` words."""
        for prompt in prompts:
            count = len(self.words(prompt))
            if count > self.length:
                raise InputError(
                    f"prompt {shown(prompt)} has {count:,} words; this model reads at most {self.length}"
                )

    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> PromptCondition:
        """Ids (B, length) and mask (B, length), True = a word; unknown words are `[UNK]`, "" is all padding.

        Raises:
            InputError: a prompt is too long.
        """
        ids, mask = self._ids(prompts, device)
        if negative_prompts is None:
            return PromptCondition(ids, mask)
        return PromptCondition(ids, mask, *self._ids(negative_prompts, device))

    def _ids(self, prompts: Sequence[str], device: torch.device | str) -> tuple[Tensor, Tensor]:
        self.check(prompts)
        vocabulary = self.tokenizer.get_vocab()
        rows = [
            [vocabulary.get(word, vocabulary[UNKNOWN]) for word in self.words(prompt)] for prompt in prompts
        ]
        ids = torch.tensor([row + [vocabulary[PAD]] * (self.length - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return ids.to(device), (torch.arange(self.length) < lengths[:, None]).to(device)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` and its configuration."""
        self.tokenizer.save_pretrained(str(folder))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> WordVocabulary:
        """Read a folder of `save_pretrained`; raises `InputError` when it holds none, or a broken one."""
        if not (Path(folder) / "tokenizer.json").is_file():
            raise InputError(
                f"folder {str(folder)!r} has no tokenizer.json; give one written by save_pretrained"
            )
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # the library raises plain ones on what it cannot parse
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"folder {str(folder)!r} holds no readable tokenizer ({told})") from error
        return cls(tokenizer)


def _backend(vocabulary: dict[str, int]) -> Tokenizer:
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="removed")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    return backend


def _split(backend: Tokenizer, text: str) -> list[str]:
    """Words of a text. Special tokens written out in it are plain words: `[PAD]` is the word "pad"."""
    return [
        word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
    ]
