"""The toy protocol, and tiny models and folders saved to disk."""

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.stand_in import ENTRY, TOY
from tests.pipelines.conftest import LENGTH, SIZE, WORDS, make_generator, make_tokenizer
from visgen.evaluation import EXTRACTORS
from visgen.evaluation.protocols import PROTOCOLS
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.text_to_image import TextToImagePipeline


@pytest.fixture
def toy(monkeypatch):
    """Protocol `toy` is known."""
    monkeypatch.setitem(EXTRACTORS._entries, "toy", ENTRY)
    monkeypatch.setitem(PROTOCOLS, "toy", TOY)
    return TOY


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of a text, a class and a reconstruction model of 16×16 pixels."""
    root = tmp_path_factory.mktemp("models")
    text = WordVocabulary.from_words(WORDS, LENGTH)
    generator = make_generator(condition="prompt", text_length=LENGTH, text_vocab_size=text.vocab_size)
    TextToImagePipeline(make_tokenizer(), generator, text, {"top_k": 16}).save_pretrained(root / "text")
    ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5)).save_pretrained(root / "class")
    ReconstructPipeline(make_tokenizer()).save_pretrained(root / "tokenizer")
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 12 captioned pictures of 20×16 pixels."""
    return write_pictures(tmp_path_factory.mktemp("pictures"), 12, (20, SIZE))


def write_pictures(folder, count, size, seed=0, captions=True):
    rng = np.random.default_rng(seed)
    for i in range(count):
        plain = rng.integers(0, 256, 3)
        noise = rng.integers(-40, 40, (size[1], size[0], 3))
        Image.fromarray((plain + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")
        if captions:
            words = [WORDS[k] for k in rng.integers(0, len(WORDS), 3)]
            (folder / f"{i:03d}.txt").write_text(" ".join(words))
    return folder
