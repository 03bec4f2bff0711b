"""Tiny random models: 16×16 pixels, scales 1, 2, 4."""

import numpy as np
import pytest
import torch
from PIL import Image

from visgen.generators.var import VARTransformer
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.edit import EditPipeline
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.tokenizers.var import VARTokenizer

SCALES = (1, 2, 4)
SIZE = 16
WORDS = ["a", "red", "blue", "circle", "square", "above", "and"]
LENGTH = 6
CODES = {"codebook_size": 32, "latent_channels": 4}


def make_tokenizer() -> VARTokenizer:
    torch.manual_seed(0)
    cnn = {"ch": 8, "ch_mult": (1, 1, 2), "num_res_blocks": 1, "norm_groups": 4}
    tokenizer = VARTokenizer(scales=SCALES, **CODES, **cnn).eval()
    torch.nn.init.normal_(tokenizer.codebook)
    return tokenizer


def make_generator(**options) -> VARTransformer:
    torch.manual_seed(1)
    generator = VARTransformer(scales=SCALES, **CODES, hidden_size=16, depth=2, num_heads=2, **options).eval()
    generator.init_weights(gamma=1.0)  # the usual start hardly listens to its condition
    for name, std in (("head", 0.3), ("text_emb", 2.0), ("class_emb", 2.0)):
        if hasattr(generator, name):
            torch.nn.init.normal_(getattr(generator, name).weight, std=std)
    return generator


@pytest.fixture(scope="session")
def text_pipe():
    text = WordVocabulary.from_words(WORDS, LENGTH)
    options = {"condition": "prompt", "text_length": LENGTH, "text_vocab_size": text.vocab_size}
    sampling = {"guidance_scale": 2.0, "guidance_schedule": "linear", "top_k": 16}
    return quiet(TextToImagePipeline(make_tokenizer(), make_generator(**options), text, sampling))


@pytest.fixture(scope="session")
def class_pipe():
    return quiet(
        ClassToImagePipeline(make_tokenizer(), make_generator(num_classes=5), {"guidance_scale": 1.5})
    )


@pytest.fixture(scope="session")
def edit_pipe(text_pipe):
    return EditPipeline.from_pipe(text_pipe)


@pytest.fixture(scope="session")
def reconstruct_pipe(text_pipe):
    return ReconstructPipeline.from_pipe(text_pipe)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_picture(width=SIZE, height=SIZE, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def same(first, second) -> bool:
    """Whether two lists of PIL images have equal pixels."""
    return len(first) == len(second) and all(a.tobytes() == b.tobytes() for a, b in zip(first, second))
