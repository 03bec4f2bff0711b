"""Tiny random models of 1-D sequences: FlexTok of 8 tokens at 16×16 pixels, and generators over its codes."""

from __future__ import annotations

from typing import Any

import torch

from tests.pipelines.conftest import LENGTH, WORDS, quiet
from visgen.generators.raster import RasterTransformer
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.tokenizers.flextok import FlexTokTokenizer

REGISTERS, CODES = 8, 15
VQ = {
    "ch": 8,
    "ch_mult": (1, 1, 2),
    "num_res_blocks": 1,
    "norm_groups": 4,
    "code_dim": 4,
    "latent_channels": 8,
}
TRUNK = {"width": 16, "depth": 2, "head_dim": 8, "patch_size": 1, "position_sizes": (4, 4)}
OWN = {"num_inference_steps": 3, "guidance_scale": 2.0}


def flextok(**options: Any) -> FlexTokTokenizer:
    """A tokenizer whose images depend on all its tokens and on its noise."""
    torch.manual_seed(0)
    sizes = {"encoder_sizes": TRUNK, "decoder_sizes": TRUNK, "levels": (5, 3), "num_registers": REGISTERS}
    latents = {"kind": "VQTokenizer", "image_size": 16, **VQ}
    model = FlexTokTokenizer(
        **{"image_size": 16, "latents": latents, "sampling": OWN, **sizes, **options}
    ).eval()
    for parameter in model.parameters():
        if not parameter.any():  # what starts at zero makes all images alike
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def sequence_model(**options: Any) -> RasterTransformer:
    """A generator of 8 tokens that hears its condition."""
    torch.manual_seed(1)
    size = {
        "grid": None,
        "length": REGISTERS,
        "codebook_size": CODES,
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
    }
    model = RasterTransformer(**size | options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model


def text_sequences(**options: Any) -> TextToImagePipeline:
    """Words to images; `text_conditioning="cross"` among the options reads them by cross-attention."""
    text = WordVocabulary.from_words(WORDS, LENGTH)
    condition = {"condition": "prompt", "text_length": LENGTH, "text_vocab_size": text.vocab_size}
    model = sequence_model(**condition, prefix_rotation="identity", **options)
    return quiet(TextToImagePipeline(flextok(), model, text, {"guidance_scale": 2.0, "top_p": 0.9}))


def class_sequences() -> ClassToImagePipeline:
    """Five classes to images."""
    return quiet(ClassToImagePipeline(flextok(), sequence_model(num_classes=5)))
