"""The vision side of SEED (arXiv 2310.01218): EVA-CLIP's transformer, up to its last block but one, and the
plain blocks of the de-tokenizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.vit import ViTBlock

EPS = 1e-6  # of every norm inside the blocks; `ViTBlock`'s own is 1e-5


class PlainBlock(ViTBlock):
    """`ViTBlock` with SEED's epsilon and a given size of its MLP."""

    def __init__(self, width: int, heads: int, mlp_size: int) -> None:
        super().__init__(width, heads, mlp_ratio=(mlp_size + 0.5) / width)  # rounded down there
        self.ln_1.eps = self.ln_2.eps = EPS


class PatchEmbedding(nn.Module):
    """One convolution of stride `patch_size`."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, h·w, C)."""
        return self.proj(images).flatten(2).transpose(1, 2)


def _positions(side: int, width: int) -> Tensor:
    """Sinusoids (1, 1 + side², C) of row and column to start from: small random ones would hide places."""
    channels = width // 4 * 4
    table = get_2d_sincos_pos_embed(channels, side, cls_token=True, extra_tokens=1, output_type="pt")
    return F.pad(table.float(), (0, width - channels))[None]


class VisionEncoder(nn.Module):
    """Class token, patches, learned positions, pre-norm blocks; no norm at the end.

    The key bias, which attention does not feel, is zero in the official weights.

    Raises:
        InputError: a patch size that does not divide the image.
    """

    def __init__(
        self, image_size: int, patch_size: int, width: int, depth: int, heads: int, mlp_size: int
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size % patch_size:
            raise InputError(f"patch_size={patch_size} must divide image_size={image_size}")
        self.patch_embed = PatchEmbedding(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(_positions(image_size // patch_size, width))
        self.blocks = nn.ModuleList(PlainBlock(width, heads, mlp_size) for _ in range(depth))

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 1 + N, C) of normalised images (B, 3, H, W), class token first."""
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1).to(patches.dtype), patches], dim=1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x
