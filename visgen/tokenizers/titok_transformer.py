"""TiTok's two vision transformers (arXiv 2406.07550): patches and latent tokens together, and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.nn.vit import ViTBlock

Sizes = tuple[int, int, int]  # width, depth, heads


class TiTokTransformer(nn.Module):
    """What both sides share: a class token and G² places, then N latent tokens, then blocks over all.

    Args:
        sizes: width W, depth, heads.
        side: G, patches along a side of the image.
        num_tokens: N.
    """

    def __init__(self, sizes: Sizes, side: int, num_tokens: int) -> None:
        super().__init__()
        width, depth, heads = sizes
        self.class_embedding = nn.Parameter(_small(1, width))
        self.positional_embedding = nn.Parameter(_small(side**2 + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(_small(num_tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(ViTBlock(width, heads) for _ in range(depth))
        self.ln_post = nn.LayerNorm(width)

    def run(self, places_BGW: Tensor, *others_BNW: Tensor) -> Tensor:
        """States (B, 1 + G² + …, W) of a class token, places and other tokens, before the last norm."""
        first = self.class_embedding.expand(len(places_BGW), 1, -1)
        x = torch.cat([first, places_BGW], dim=1) + self.positional_embedding
        x = self.ln_pre(torch.cat([x, *others_BNW], dim=1))
        for block in self.transformer:
            x = block(x)
        return x


class TiTokEncoder(TiTokTransformer):
    """Pixels in [0, 1] → latents (B, C, 1, N).

    `reshaped` reads the (B, N, W) states as (B, W, N) without transposing, as the first official models do.
    """

    def __init__(
        self, sizes: Sizes, side: int, num_tokens: int, patch_size: int, channels: int, reshaped: bool
    ) -> None:
        super().__init__(sizes, side, num_tokens)
        self.reshaped = reshaped
        self.patch_embed = nn.Conv2d(3, sizes[0], patch_size, stride=patch_size)
        self.conv_out = nn.Conv2d(sizes[0], channels, 1)

    def forward(self, pixels: Tensor, latent_tokens_NW: Tensor) -> Tensor:
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        latents = latent_tokens_NW + self.latent_token_positional_embedding
        x = self.run(patches, latents.expand(len(pixels), -1, -1))
        x = self.ln_post(x[:, -len(latents) :])
        states = x.reshape(len(x), -1, 1, len(latents)) if self.reshaped else x.transpose(1, 2)[:, :, None]
        return self.conv_out(states)


class TiTokDecoder(TiTokTransformer):
    """Latents (B, C, 1, N) → what `head` makes of G × G places.

    Args:
        channels: C.
        patch_size: p, pixels per place and side, of the RGB head.
        num_codes: codes of the tokenizer whose logits the other head gives (B, codes, G, G); 0 = RGB pixels
            (B, 3, G · p, G · p) in [0, 1].
        text_length, text_dim: T features of a caption that TA-TiTok (arXiv 2501.07730) decodes with; 0 = no.
    """

    def __init__(
        self,
        sizes: Sizes,
        side: int,
        num_tokens: int,
        channels: int,
        patch_size: int,
        num_codes: int,
        text_length: int = 0,
        text_dim: int = 0,
    ) -> None:
        super().__init__(sizes, side, num_tokens)
        width = sizes[0]
        self.side, self.patch_size, self.num_codes = side, patch_size, num_codes
        self.decoder_embed = nn.Linear(channels, width)
        self.mask_token = nn.Parameter(_small(1, 1, width))
        if text_length:
            self.text_guidance_proj = nn.Linear(text_dim, width)
            self.text_guidance_positional_embedding = nn.Parameter(_small(text_length, width))
        if num_codes:
            self.ffn = nn.Sequential(
                nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, num_codes, 1)
            )
        else:
            self.ffn = nn.Sequential(nn.Conv2d(width, 3 * patch_size**2, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, latents_BC1N: Tensor, text_BTD: Tensor | None = None) -> Tensor:
        tokens = self.decoder_embed(latents_BC1N.squeeze(2).transpose(1, 2))
        others = [tokens + self.latent_token_positional_embedding]
        if text_BTD is not None:
            others.append(self.text_guidance_proj(text_BTD) + self.text_guidance_positional_embedding)
        x = self.run(self.mask_token.expand(len(tokens), self.side**2, -1), *others)
        x = self.ln_post(x[:, 1 : 1 + self.side**2])
        x = self.ffn(x.transpose(1, 2).unflatten(2, (self.side, self.side)))
        return x if self.num_codes else self.conv_out(self._pixels(x))

    def _pixels(self, x: Tensor) -> Tensor:
        """Pixels of places whose channels run (row, column, colour), colours fastest."""
        x = x.unflatten(1, (self.patch_size**2, 3)).transpose(1, 2).flatten(1, 2)
        return F.pixel_shuffle(x, self.patch_size)


def _small(*shape: int) -> Tensor:
    return shape[-1] ** -0.5 * torch.randn(*shape)
