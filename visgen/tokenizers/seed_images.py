"""The side of SEED's models that looks at images (arXiv 2310.01218): what the first stage of training,
`SEEDContrastive`, hands on to the second, `SEEDTokenizer`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerModel

from visgen.nn.model import VisgenModel
from visgen.tokenizers.seed_qformer import build_qformer, run_qformer
from visgen.tokenizers.seed_vision import VisionEncoder

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalized(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] less `mean`, divided by `std`, which are of [0, 1] pixels."""
    shift, scale = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (mean, std))
    return ((images + 1) / 2 - shift) / scale


class SEEDImageModel(VisgenModel):
    """Vision transformer, its norm and the causal Q-Former.

    Subclasses call `_init_images` first; their configurations share image_size, patch_size, vision_width,
    vision_depth, vision_heads, vision_mlp, hidden_size, qformer_depth, num_heads, mlp_size,
    cross_attention_every, num_queries, dropout, pixel_mean and pixel_std, see `SEEDTokenizer`.
    """

    visual_encoder: VisionEncoder
    ln_vision: nn.LayerNorm
    query_tokens: nn.Parameter
    qformer: Blip2QFormerModel

    def _init_images(self, *, vision: bool = True, text: bool = False) -> None:
        """Build what the configuration says.

        Args:
            vision: with the vision transformer; without it features are made elsewhere.
            text: the Q-Former has layers of text tokens too.
        """
        c = self.config
        if vision:
            self.visual_encoder = VisionEncoder(
                c.image_size, c.patch_size, c.vision_width, c.vision_depth, c.vision_heads, c.vision_mlp
            )
        self.ln_vision = nn.LayerNorm(c.vision_width)
        self.query_tokens = nn.Parameter(torch.randn(1, c.num_queries, c.hidden_size) * 0.02)
        self.qformer = self._build_qformer(c.vision_width, text=text)

    def _build_qformer(self, encoder_size: int, *, text: bool = False) -> Blip2QFormerModel:
        """A Q-Former that looks at features of `encoder_size` channels."""
        c = self.config
        sizes = (c.hidden_size, c.qformer_depth, c.num_heads, c.mlp_size, c.cross_attention_every)
        return build_qformer(*sizes, encoder_size, text=text, dropout=c.dropout)

    def vision_features(self, images: Tensor) -> Tensor:
        """Features (B, 1 + N, C) of images (B, 3, s, s) in [-1, 1], before their norm."""
        pixels = normalized(images, self.config.pixel_mean, self.config.pixel_std)
        return self.visual_encoder(pixels.to(self.dtype))

    def query_states(self, features: Tensor) -> Tensor:
        """States (B, Q, H) of the causal Q-Former for features of `vision_features`."""
        return run_qformer(self.qformer, self._queries(features), self.ln_vision(features))

    def _queries(self, features: Tensor) -> Tensor:
        return self.query_tokens.expand(len(features), -1, -1)
