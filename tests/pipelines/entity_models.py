"""Tiny random xAR pipelines: 16×16 pixels, a 4×4 grid of latents in four cells."""

import torch

from tests.pipelines.conftest import LENGTH, WORDS, quiet
from tests.pipelines.tiny_tokenizers import tiny_tokenizer
from visgen.generators.xar import XARGenerator
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.text_to_image import TextToImagePipeline

SIZES = {"hidden_size": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "mlp_size": 24}
SAMPLING = {"num_inference_steps": 4, "guidance_scale": 3.0}


def xar_generator(tokenizer, entities=None, **options):
    grid, channels = tokenizer.layout, tokenizer.config.latent_channels
    entities = entities or {"kind": "cell", "size": grid.h // 2}
    torch.manual_seed(1)
    model = XARGenerator((grid.h, grid.w), channels, entities, **SIZES | options).eval()
    for parameter in model.condition_embed.parameters():  # heard at once, not after some training
        torch.nn.init.normal_(parameter, std=1.0)
    return model


def xar_text_pipe(**options):
    text, tokenizer = WordVocabulary.from_words(WORDS, LENGTH), tiny_tokenizer("KLTokenizer")
    words = {"condition": "prompt", "text_length": LENGTH, "text_vocab_size": text.vocab_size}
    generator = xar_generator(tokenizer, **words | options)
    return quiet(TextToImagePipeline(tokenizer, generator, text, SAMPLING))


def xar_class_pipe(**options):
    tokenizer = tiny_tokenizer("KLTokenizer")
    generator = xar_generator(tokenizer, num_classes=5, **options)
    return quiet(ClassToImagePipeline(tokenizer, generator, SAMPLING))
