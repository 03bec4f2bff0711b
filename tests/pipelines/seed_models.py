"""A tiny model of words and images, with random weights that are always the same."""

import torch

from visgen.data.scenes import words
from visgen.pipelines.interleaved import InterleavedPipeline
from visgen.pipelines.language_models import LanguageModelSizes, SeedLlama
from visgen.pipelines.seed_vocabulary import SeedVocabulary
from visgen.tokenizers.renderers.flow import FlowRenderer
from visgen.tokenizers.seed import SEEDTokenizer

CODES, LENGTH = 24, 6
CODEC = {
    "kind": "VQTokenizer",
    "image_size": 64,
    "code_dim": 4,
    "latent_channels": 8,
    "ch": 8,
    "ch_mult": [1],
    "num_res_blocks": 1,
    "norm_groups": 4,
    "attention": False,
    "mid_blocks": False,
    "patch_size": 8,
    "normalize_codes": True,
}
SMALL = {"hidden_size": 24, "num_heads": 2, "mlp_size": 24, "embedding_dim": 16}


def tiny_tokenizer() -> SEEDTokenizer:
    torch.manual_seed(0)
    vision = {"image_size": 64, "patch_size": 16, "vision_width": 16, "vision_depth": 1, "vision_heads": 2}
    decoder = {"decoder_depth": 1, "decoder_heads": 2, "head_sizes": (8, 4), "qformer_depth": 1}
    codes = {"num_queries": LENGTH, "codebook_size": CODES, "code_dim": 4, "vision_mlp": 16}
    return SEEDTokenizer(**vision, **decoder, **codes, **SMALL).eval()


def tiny_renderer() -> FlowRenderer:
    torch.manual_seed(1)
    sizes = SMALL | {"depth": 1, "condition_tokens": 2}
    renderer = FlowRenderer(codec=CODEC, sampling={"num_inference_steps": 2}, **sizes)
    torch.nn.init.normal_(renderer.head.weight)
    return renderer.eval()


def tiny_language_model(style: str = "plain") -> SeedLlama:
    torch.manual_seed(2)
    vocabulary = SeedVocabulary.from_words([*words(), "describe", "user", "assistant"], CODES, LENGTH)
    sizes = LanguageModelSizes(hidden_size=24, depth=2, num_heads=2, mlp_size=32, max_length=128)
    model = SeedLlama.build(sizes, vocabulary, style).eval()
    with torch.no_grad():  # sharp laws, so that ids differ from row to row
        model.model.lm_head.weight.mul_(40)
    return model


def tiny_pipeline(style: str = "plain", renderer: bool = True) -> InterleavedPipeline:
    pipe = InterleavedPipeline(
        tiny_tokenizer(), tiny_language_model(style), tiny_renderer() if renderer else None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
