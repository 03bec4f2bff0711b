"""Words become ids; text encoders become features."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from visgen.errors import InputError
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.text_features import TextFeatures

WORDS = ["a", "red", "blue", "circle", "square", "above", "2"]


@pytest.fixture
def vocabulary():
    return WordVocabulary.from_words(WORDS, 6)


def test_ids_and_mask(vocabulary):
    condition = vocabulary.encode(["A red, Circle!", ""])
    assert condition.input_ids.tolist() == [[2, 3, 5, 0, 0, 0], [0] * 6]
    assert condition.mask.tolist() == [[True] * 3 + [False] * 3, [False] * 6]
    assert condition.negative_ids is None


def test_negative_prompts(vocabulary):
    condition = vocabulary.encode(["a red circle"], ["blue"])
    assert condition.negative_ids.tolist() == [[4, 0, 0, 0, 0, 0]]
    assert condition.unconditional().mask.sum() == 1


def test_unknown_words(vocabulary):
    assert vocabulary.unknown_words("a GREEN circle, green 2 dogs") == ["green", "dogs"]
    assert vocabulary.encode(["dog"]).input_ids[0, 0] == 1
    assert vocabulary.known_words() == WORDS and vocabulary.vocab_size == len(WORDS) + 2


def test_special_tokens_in_a_prompt_are_words(vocabulary):
    assert vocabulary.unknown_words("[PAD] [UNK]") == ["pad", "unk"]
    assert vocabulary.encode(["[PAD] a"]).input_ids[0, :2].tolist() == [1, 2]


def test_too_long(vocabulary):
    with pytest.raises(InputError, match="has 7 words; this model reads at most 6"):
        vocabulary.encode(["a a a a a a a"])


@pytest.mark.parametrize("words", [["two words"], [], ["a", "!"]])
def test_bad_words(words):
    with pytest.raises(InputError, match="word"):
        WordVocabulary.from_words(words)


def test_folder_is_an_ordinary_tokenizer(vocabulary, tmp_path):
    vocabulary.save_pretrained(tmp_path)
    again = WordVocabulary.from_pretrained(tmp_path)
    assert again.length == 6 and again.known_words() == WORDS
    assert torch.equal(
        again.encode(["a red circle"]).input_ids, vocabulary.encode(["a red circle"]).input_ids
    )
    plain = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert plain("A red, circle!", padding="max_length").input_ids == [2, 3, 5, 0, 0, 0]
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        WordVocabulary.from_pretrained(tmp_path / "nowhere")


def test_other_tokenizers_are_refused(tmp_path):
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    )
    with pytest.raises(InputError, match="no word-level one"):
        WordVocabulary(fast)
    with pytest.raises(InputError, match="model_max_length=0"):
        WordVocabulary.from_words(WORDS, 0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    WordVocabulary.from_words(WORDS, 8).save_pretrained(folder)
    torch.manual_seed(0)
    T5EncoderModel(
        T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).save_pretrained(folder)
    return folder


def test_text_features(encoder, tmp_path):
    text = TextFeatures(str(encoder), 5)
    text.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "text_features.json").read_text()) == {
        "encoder": str(encoder),
        "max_length": 5,
    }
    text = TextFeatures.from_pretrained(tmp_path)
    condition = text.encode(["a red circle", "", "a red circle", "blue"])
    assert condition.embeddings.shape == (4, 5, 8)
    assert condition.words.sum(1).tolist() == [3, 0, 3, 1]
    alone = text.encode(["blue"])
    assert torch.equal(alone.embeddings[0], condition.embeddings[3])
    assert not condition.embeddings.requires_grad


def test_text_features_errors(encoder, tmp_path):
    text = TextFeatures(str(encoder), 3)
    with pytest.raises(InputError, match="has 4 tokens; this model reads at most 3"):
        text.check(["a red circle above"])
    with pytest.raises(InputError, match="negative_prompt"):
        text.encode(["a"], ["blue"])
    with pytest.raises(InputError, match="cannot be loaded"):
        TextFeatures(str(tmp_path), 3).check(["a"])
    with pytest.raises(InputError, match="max_length=0"):
        TextFeatures("t5", 0)


def test_text_features_as_llamagen_takes_them(encoder, tmp_path):
    """Cleaned, padding in front and zero; "" is unconditional behind its own mask."""
    options = {"left_padding": True, "clean": True, "zero_padding": True}
    text = TextFeatures(str(encoder), 5, **options)
    text.save_pretrained(tmp_path)
    text = TextFeatures.from_pretrained(tmp_path)
    assert all(getattr(text, name) is True for name in options)
    plain = TextFeatures(str(encoder), 5).encode(["a red circle"])
    condition = text.encode(["A RED   circle http://example.com", ""])
    assert condition.mask.tolist() == [[False, False, True, True, True], [False] * 5]
    assert condition.null.tolist() == [False, True]
    assert torch.equal(condition.embeddings[0, 2:], plain.embeddings[0, :3])
    assert condition.embeddings[0, :2].abs().max() == 0 and condition.embeddings[1].abs().max() == 0
