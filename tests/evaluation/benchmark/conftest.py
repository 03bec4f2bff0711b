"""Tiny next-token pipelines with random weights that answer to their condition."""

import pytest
import torch

from visgen.data.scenes import Scenes
from visgen.generators.raster import RasterTransformer
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.tokenizers.vq import VQTokenizer

CODES = 32
SAMPLING = {"guidance_scale": 2.0, "top_k": 20, "top_p": 0.9}


def raster_tokenizer(size=16):
    """Ids of 4×4 blocks of pixels; 8×8 where the image has 64."""
    torch.manual_seed(0)
    mult = (1, 1, 2) if size == 16 else (1, 1, 1, 2)
    cnn = {"ch": 8, "ch_mult": mult, "num_res_blocks": 1, "norm_groups": 4}
    return VQTokenizer(image_size=size, codebook_size=CODES, code_dim=4, latent_channels=8, **cnn).eval()


def raster_model(**options):
    torch.manual_seed(0)
    size = {"grid": (4, 4), "codebook_size": CODES, "hidden_size": 48, "depth": 2, "num_heads": 2}
    model = RasterTransformer(**size | options).eval()
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter) + (parameter.ndim == 1)
    return model


def raster_pipe(**options):
    """A class pipeline of its own, because a benchmark leaves it in the last dtype."""
    made = ClassToImagePipeline(raster_tokenizer(), raster_model(num_classes=5, **options), SAMPLING)
    made.set_progress_bar_config(disable=True)
    return made


def scenes_pipe():
    """Draws 64×64 pixels of the captions of the scenes world, badly."""
    captions = Scenes("validation", balanced=True).batch(range(64)).captions
    text = WordVocabulary.from_words(sorted({w for one in captions for w in one.lower().split()}), 24)
    options = {"condition": "prompt", "text_length": 24, "text_vocab_size": text.vocab_size}
    generator = raster_model(grid=(8, 8), **options)
    made = TextToImagePipeline(raster_tokenizer(64), generator, text, SAMPLING)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def raster():
    return raster_pipe()
