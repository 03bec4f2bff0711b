"""What pruners are timed on: random tokens as LLaVA's towers and decoders would hand them over.

Values are random, sizes are real: width 4,096 before the decoder, CLIP's 1,024 in 16 heads in the tower, one
decoder layer's attention of 32 heads. Selection takes as long on random tokens as on any others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from visgen.pruning.views import ImageView, LayerView, TowerView

TILE = 576  # patches of CLIP ViT-L/14 at 336 pixels
QUESTION = 40  # text tokens behind the image
LAYERS = 32


@dataclass(frozen=True)
class Widths:
    """Sizes of the decoder and the tower: hidden width, heads; those of LLaVA-1.5-7B."""

    hidden_size: int = 4096
    num_heads: int = 32
    tower_size: int = 1024
    tower_heads: int = 16


def image_case(tokens: int, widths: Widths, device: torch.device) -> ImageView:
    """An image of `tokens` tokens with all that a pruner may ask for; the draw is that of seed 0."""
    draw = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(device)

    tiles = tokens // TILE if tokens % TILE == 0 else 1
    patches, width = tokens // tiles, widths.tower_size
    weight_DC = randn(widths.hidden_size, width) / width**0.5
    tower = TowerView(
        hidden_TNC=randn(tiles, patches, width),
        queries_TLC=randn(tiles, patches + 1, width),
        keys_TLC=randn(tiles, patches + 1, width),
        num_heads=widths.tower_heads,
        has_cls=True,
        patch_N=torch.arange(tokens, device=device),
        project=lambda x: x @ weight_DC.T,
    )
    return ImageView(
        features_ND=randn(tokens, widths.hidden_size),
        slots_N=torch.arange(tokens, device=device),
        num_slots=tokens,
        sample=0,
        ordinal=0,
        tower=tower,
        text_TD=randn(QUESTION, widths.hidden_size),
        text_ids_T=torch.arange(QUESTION, device=device),
    )


@dataclass(frozen=True, eq=False)
class LayerCase:
    """One decoder layer that has read `tokens` image tokens and a question.

    Attributes:
        attention: the layer's attention.
        hidden_LD, rotary, keys_HLD: what it was given, and the keys it put into the cache.
    """

    attention: nn.Module
    hidden_LD: Tensor
    rotary: tuple[Tensor, Tensor]
    keys_HLD: Tensor
    tokens: int

    @classmethod
    def build(cls, tokens: int, widths: Widths, device: torch.device) -> LayerCase:
        """Random weights and values, seed 0."""
        config = LlamaConfig(
            hidden_size=widths.hidden_size,
            num_attention_heads=widths.num_heads,
            num_key_value_heads=widths.num_heads,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            attention = LlamaAttention(config, layer_idx=0).to(device)
            hidden_LD = torch.randn(tokens + QUESTION, widths.hidden_size).to(device)
            keys_HLD = torch.randn(widths.num_heads, len(hidden_LD), attention.head_dim).to(device)
        positions = torch.arange(len(hidden_LD), device=device)[None]
        cos, sin = LlamaRotaryEmbedding(config).to(device)(hidden_LD[None], positions)
        return cls(attention, hidden_LD, (cos[0], sin[0]), keys_HLD, tokens)

    def rows(self, wanted: str) -> Tensor:
        """The queries that a pruner looks at: the "last" one, or all "text"."""
        length = len(self.hidden_LD)
        count = 1 if wanted == "last" else QUESTION
        return torch.arange(length - count, length, device=self.hidden_LD.device)

    def view(self, attention_HTN: Tensor | None, stage: int, layer: int, notes: dict[str, Any]) -> LayerView:
        """What `filter` is given."""
        numbers_N = torch.arange(self.tokens, device=self.hidden_LD.device)
        return LayerView(
            layer=layer,
            stage=stage,
            num_layers=LAYERS,
            attention_HTN=attention_HTN,
            hidden_ND=self.hidden_LD[: self.tokens],
            token_N=numbers_N,
            image_N=torch.zeros_like(numbers_N),
            num_tokens=self.tokens,
            sample=0,
            notes=notes,
        )
