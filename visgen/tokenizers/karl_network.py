"""KARL's two transformers: image tokens, latents and a wanted error become codes with halting logits; codes
become predictions of the base tokenizer's tokens (arXiv 2507.07995)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.vit import ViTBlock, init_vit


def resized_positions(table_CHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Learned positions (C, S, S) of a grid, (h·w, C): row floor(i · S / h), so a subset of the table."""
    if max(grid) > table_CHW.shape[-1]:
        raise InputError(f"a grid of {grid[0]} × {grid[1]} positions is beyond {table_CHW.shape[-1]} a side")
    return F.interpolate(table_CHW[None], size=grid, mode="nearest")[0].flatten(1).T


class KARLEncoder(nn.Module):
    """[wanted error, image tokens, latents] → a code and a halting logit per latent.

    Args:
        width, layers, heads: of the transformer.
        features: channels of the base's features, which are part of an image token; the rest are a patch
            embedding.
        patch_size: pixels per image token, along each side.
        max_grid: side of the table of positions.
        max_latents: number of learned latents.
        error_bins: the errors that can be wanted; the embedding of each starts as its value.
        halt_width: hidden channels of the halting head.
        code_dim: channels of a code.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        features: int,
        patch_size: int,
        max_grid: int,
        max_latents: int,
        error_bins: tuple[float, ...],
        halt_width: int,
        code_dim: int,
    ) -> None:
        super().__init__()
        if width <= features:
            raise InputError(f"encoder width {width} must be above the base's {features} channels")
        self.patch_embed = nn.Conv2d(3, width - features, patch_size, stride=patch_size)
        self.positions = nn.Parameter(torch.randn(width, max_grid, max_grid) * width**-0.5)
        self.latents = nn.Parameter(torch.randn(max_latents, width) * width**-0.5)
        self.errors = nn.Parameter(torch.tensor(error_bins)[:, None].repeat(1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ViTBlock(width, heads) for _ in range(layers))
        self.ln_halt, self.ln_code = nn.LayerNorm(width), nn.LayerNorm(width)
        self.halting = nn.Sequential(nn.Linear(width, halt_width), nn.Tanh(), nn.Linear(halt_width, 1))
        self.to_code = nn.Linear(width, code_dim)
        init_vit(self)

    def image_tokens(self, pixels: Tensor, features: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] and features (B, C, h, w) → (B, h·w, width), without positions."""
        patches = self.patch_embed(pixels)
        return torch.cat([patches, features.to(patches.dtype)], dim=1).flatten(2).transpose(1, 2)

    def hidden(self, tokens_BLW: Tensor, grid: tuple[int, int], errors_B: Tensor, num_tokens: int) -> Tensor:
        """All outputs (B, 1 + L + T, width): wanted error, image tokens, T latents.

        Args:
            tokens_BLW: of `image_tokens`.
            grid: (h, w) of them.
            errors_B: index of the wanted error of each row.
            num_tokens: T.
        """
        b, tokens = len(tokens_BLW), tokens_BLW + resized_positions(self.positions, grid)
        latents = self.latents[:num_tokens].expand(b, -1, -1)
        x = self.ln_pre(torch.cat([self.errors[errors_B][:, None], tokens, latents], dim=1))
        for block in self.blocks:
            x = block(x)
        return x

    def heads(self, latents_BTW: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, T, code_dim) and halting logits (B, T) of the last T outputs."""
        return self.to_code(self.ln_code(latents_BTW)), self.halting(self.ln_halt(latents_BTW)).squeeze(-1)


class KARLDecoder(nn.Module):
    """[a query per position, codes] → what the base predicts from, (B, L, outputs).

    Args:
        width, layers, heads: of the transformer.
        outputs: numbers per position.
        max_grid, max_latents, code_dim: as in `KARLEncoder`.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        outputs: int,
        max_grid: int,
        max_latents: int,
        code_dim: int,
    ) -> None:
        super().__init__()
        self.from_code = nn.Linear(code_dim, width)
        self.latent_positions = nn.Parameter(torch.randn(max_latents, width) * width**-0.5)
        self.query = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(width, max_grid, max_grid) * width**-0.5)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(ViTBlock(width, heads) for _ in range(layers))
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, outputs))
        init_vit(self)

    def forward(self, codes_BTD: Tensor, grid: tuple[int, int], active_BT: Tensor | None = None) -> Tensor:
        """Predictions from the active codes alone; None = all are.

        Active tokens never see halted ones, so the halted are left out: active codes move to the front, and
        a mask of keys covers what is beyond a row's count.
        """
        if active_BT is None:
            return self._run(self.embed(codes_BTD), grid, None)
        counts = active_BT.sum(-1)
        most, fewest = int(counts.max()), int(counts.min())
        order = active_BT.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        x = self.embed(codes_BTD).gather(1, order[..., None].expand(-1, -1, self.query.shape[-1]))
        present = torch.arange(most, device=order.device) < counts[:, None]
        return self._run(x, grid, None if fewest == most else present)

    def dense(self, codes_BTD: Tensor, grid: tuple[int, int], active_BT: Tensor) -> Tensor:
        """The same with all tokens in place and a mask of pairs: the official way, kept as the reference."""
        allowed = pair_mask(active_BT, grid[0] * grid[1])
        return self._run(self.embed(codes_BTD), grid, allowed)

    def embed(self, codes_BTD: Tensor) -> Tensor:
        """Codes with their positions, (B, T, width)."""
        return self.from_code(codes_BTD) + self.latent_positions[: codes_BTD.shape[1]]

    def _run(self, latents_BTW: Tensor, grid: tuple[int, int], mask: Tensor | None) -> Tensor:
        queries = self.query + resized_positions(self.positions, grid)
        length = queries.shape[1]
        if mask is not None and mask.ndim == 2:
            mask = F.pad(mask, (length, 0), value=True)
        x = self.ln_pre(torch.cat([queries.expand(len(latents_BTW), -1, -1), latents_BTW], dim=1))
        for block in self.blocks:
            x = block(x, mask)
        return self.ffn(self.ln_post(x[:, :length]))


def pair_mask(active_BT: Tensor, queries: int) -> Tensor:
    """Bool (B, L + T, L + T), True = may attend: halted latents see and are seen by themselves alone."""
    present = F.pad(active_BT, (queries, 0), value=True)
    itself = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    return (present[:, :, None] & present[:, None, :]) | itself
