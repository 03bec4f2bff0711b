"""Tiny models of the three families with random weights, large enough that their logits differ."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    JanusConfig,
    JanusForConditionalGeneration,
)

from visgen.generators.conditions import PromptCondition
from visgen.generators.transformers.base import TransformersGenerator
from visgen.generators.transformers.chameleon import ChameleonGenerator
from visgen.generators.transformers.emu3 import Emu3Generator
from visgen.generators.transformers.janus import JanusGenerator
from visgen.tokenizers.tokens import Grid

WORDS = 40  # words of each vocabulary; image codes come behind them
PAD, BOS, EOS, BOI, EOI = 0, 1, 2, 3, 4
TRUNK: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}


def livelier(model: torch.nn.Module) -> Any:
    """The same model with weights four times as large as initialised, so that its laws are not flat."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


def janus(seed: int = 0, side: int = 4, codes: int = 24) -> JanusForConditionalGeneration:
    torch.manual_seed(seed)
    vq = {
        "embed_dim": 8,
        "num_embeddings": codes,
        "latent_channels": 32,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "projection_dim": 32,
        "image_token_embed_dim": 32,
        "num_hidden_layers": 2,
    }
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 4,
        "image_size": 4 * side,
        "projection_dim": 32,
        "num_image_tokens": side * side,
        "intermediate_size": 16,
        "mlp_ratio": 1.0,
    }
    text = TRUNK | {"model_type": "llama", "vocab_size": WORDS, "num_key_value_heads": 2}
    config = JanusConfig(text_config=text, vision_config=vision, vq_config=vq, image_token_id=5)
    model = livelier(JanusForConditionalGeneration(config))
    model.generation_config.update(bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS)
    model.generation_config.generation_kwargs = {"boi_token_id": BOI}
    return model


def emu3(seed: int = 0, codes: int = 24) -> Emu3ForConditionalGeneration:
    torch.manual_seed(seed)
    vq = {
        "codebook_size": codes,
        "embed_dim": 4,
        "latent_channels": 4,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [1],
        "hidden_size": 32,
        "temporal_downsample_factor": 1,
    }
    words = {"<image>": 5, "<|extra_200|>": 6, "<|extra_201|>": 7}
    visual = {f"<|visual token {code:06d}|>": WORDS + code for code in range(codes)}
    text = TRUNK | {"vocab_size": WORDS + codes, "num_key_value_heads": 2}
    config = Emu3Config(text_config=text, vq_config=vq, vocabulary_map=words | visual)
    return livelier(Emu3ForConditionalGeneration(config))


def letters(code: int) -> str:
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


def chameleon(seed: int = 0, codes: int = 24, **changes: Any) -> ChameleonForConditionalGeneration:
    torch.manual_seed(seed)
    vq = {
        "embed_dim": 8,
        "num_embeddings": codes,
        "latent_channels": 8,
        "resolution": 8,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
    }
    shuffled = torch.randperm(codes).tolist()  # codes do not stand in line here
    words = {"<image>": 5} | {letters(code): WORDS + place for code, place in enumerate(shuffled)}
    config = ChameleonConfig(
        **TRUNK | {"vocab_size": WORDS + codes, "num_key_value_heads": 4} | changes,
        vq_config=vq,
        vocabulary_map=words,
    )
    return livelier(ChameleonForConditionalGeneration(config))


def generators() -> dict[str, TransformersGenerator]:
    """One of each family and format, of 12 to 20 tokens."""
    return {
        "janus": JanusGenerator(janus(4)),
        "emu3": Emu3Generator(emu3(6), grid=Grid(3, 4)),
        "anole": ChameleonGenerator(chameleon()),
        "lumina": ChameleonGenerator(chameleon(1), grid=Grid(4, 2), format="lumina", line_end_id=9),
    }


def prompts(lengths: tuple[int, ...] = (5, 3), seed: int = 0, negative: int = 2) -> PromptCondition:
    """Random words, left-padded, and negative prompts of `negative` words and more."""
    torch.manual_seed(seed)
    width, count = max(lengths), len(lengths)
    ids = torch.randint(10, WORDS, (count, width))
    mask = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    negatives = [min(negative + row, width) for row in range(count)]
    negative_mask = torch.arange(width) >= width - torch.tensor(negatives)[:, None]
    return PromptCondition(ids, mask, torch.randint(10, WORDS, (count, width)), negative_mask)
