"""A small renderer: rectified flow (arXiv 2209.03003) over the latents of a frozen autoencoder, given an
image embedding. It stands where official SEED has a diffusion model of 768 pixels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.adaln import AdaLNBlock, AdaLNHead
from visgen.nn.flow import FlowSampling, SigmaLaw, flow_pair, sample_flow
from visgen.nn.model import VisgenModel
from visgen.nn.noise import Noise
from visgen.schema import read
from visgen.tokenizers.convolutional import check_sizes
from visgen.tokenizers.latents import build_codec
from visgen.tokenizers.renderers.base import Renderer, same_draw

TIME_CHANNELS = 128  # of the sinusoidal embedding of time
EPS = 1e-6


class EmbeddingTokens(nn.Module):
    """An embedding (B, D) cut into n parts, each a token of its own linear layer (B, n, C).

    A learned sequence stands for "no embedding".
    """

    def __init__(self, embedding_dim: int, count: int, width: int) -> None:
        super().__init__()
        if embedding_dim % count:
            raise InputError(f"condition_tokens={count} must divide embedding_dim={embedding_dim}")
        part = embedding_dim // count
        self.weight = nn.Parameter(torch.randn(count, part, width) * part**-0.5)
        self.bias = nn.Parameter(torch.randn(1, count, width) * 0.02)
        self.null = nn.Parameter(torch.randn(1, count, width) * 0.02)

    def forward(self, embeddings: Tensor, dropped: Tensor) -> Tensor:
        """Tokens (B, n, C); rows of `dropped` (B,) get the learned ones."""
        parts = embeddings.view(len(embeddings), len(self.weight), -1)
        tokens = torch.einsum("bnd,ndc->bnc", parts, self.weight) + self.bias
        return torch.where(dropped[:, None, None], self.null.to(tokens.dtype), tokens)


class FlowRenderer(VisgenModel, Renderer):
    """A transformer with time in its norms; the embedding's tokens stand before those of the latents.

    Args:
        image_size: side in pixels.
        codec: the frozen autoencoder, see `visgen.tokenizers.latents.build_codec`.
        patch_size: latent positions per token, along each side.
        hidden_size, depth, num_heads, mlp_size: sizes of the transformer.
        embedding_dim: D, channels of the embeddings.
        condition_tokens: parts that an embedding is cut into.
        embedding_scale: embeddings are multiplied by it, about 1 / their standard deviation.
        sampling: default `FlowSampling`, its keywords.

    Raises:
        InputError: sizes below 1, or that do not divide each other.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 64,
        codec: dict[str, Any] | None = None,
        patch_size: int = 1,
        hidden_size: int = 160,
        depth: int = 5,
        num_heads: int = 5,
        mlp_size: int = 640,
        embedding_dim: int = 1024,
        condition_tokens: int = 16,
        embedding_scale: float = 1.0,
        sampling: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._init_tuples()
        check_sizes(image_size=image_size, patch_size=patch_size, hidden_size=hidden_size, depth=depth)
        check_sizes(num_heads=num_heads, embedding_dim=embedding_dim, condition_tokens=condition_tokens)
        self.sampling = read(FlowSampling, sampling, "sampling")
        self.autoencoder = build_codec(codec or {"kind": "AutoencoderKL"}).requires_grad_(False)
        step = self.autoencoder.downsampling * patch_size
        if image_size % step or hidden_size % num_heads:
            raise InputError(
                f"image_size={image_size} must be a multiple of {step}, and hidden_size of num_heads"
            )
        channels = self.autoencoder.channels * patch_size**2
        self.embedding_tokens = EmbeddingTokens(embedding_dim, condition_tokens, hidden_size)
        self.latent_in = nn.Linear(channels, hidden_size)
        self.pos_embed = nn.Parameter(torch.randn(1, (image_size // step) ** 2, hidden_size) * 0.02)
        self.time_in = nn.Sequential(
            nn.Linear(TIME_CHANNELS, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        self.modulation = nn.Linear(hidden_size, 6 * hidden_size)
        self.blocks = nn.ModuleList(
            AdaLNBlock(hidden_size, num_heads, mlp_size, modulation="shared", qk_norm=True, norm_eps=EPS)
            for _ in range(depth)
        )
        self.head_norm = AdaLNHead(hidden_size, modulation="per_block", norm_eps=EPS)
        self.head = nn.Linear(hidden_size, channels)
        for layer in (self.modulation, self.head_norm.modulation, self.head):  # every block starts as nothing
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def embedding_dim(self) -> int:
        return self.config.embedding_dim

    @property
    def pixel_size(self) -> int:
        return self.config.image_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents of an image."""
        side = self.config.image_size // self.autoencoder.downsampling
        return self.autoencoder.channels, side, side

    def forward(self, latents: Tensor, t_B: Tensor, embeddings: Tensor, dropped: Tensor) -> Tensor:
        """Velocity (B, C, h, w).

        Args:
            latents: (B, C, h, w) at time t.
            t_B: (B,) in [0, 1], 1 = noise.
            embeddings: (B, D).
            dropped: bool (B,), rows without their embedding.
        """
        patches = _patches(latents, self.config.patch_size)
        tokens = self.embedding_tokens((embeddings * self.config.embedding_scale).to(self.dtype), dropped)
        x = torch.cat([tokens, self.latent_in(patches.to(self.dtype)) + self.pos_embed], dim=1)
        time = get_timestep_embedding(1000 * t_B, TIME_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        condition = self.time_in(time.to(self.dtype))
        shared = self.modulation(nn.functional.silu(condition)).view(len(x), 1, 6, -1)
        for block in self.blocks:
            x = block(x, block.modulations(condition, shared))
        x = x[:, tokens.shape[1] :]
        x = self.head_norm(x, self.head_norm.modulations(condition)).to(self.dtype)
        return _unpatched(self.head(x), self.config.patch_size, self.latent_shape)

    def loss(
        self,
        images: Tensor,
        embeddings: Tensor,
        *,
        dropout: float = 0.0,
        law: SigmaLaw = SigmaLaw(stratified=True),  # noqa: B008 (frozen)
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean squared error of the velocity.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            embeddings: (B, D).
            dropout: fraction of rows that lose their embedding, for guidance.
            law: of the times.
            generator: of times, noise and dropped rows, on the CPU.
        """
        with torch.no_grad():
            latents = self.autoencoder.encode(images).float()
        b, device = len(latents), latents.device
        sigma = law.draw(b, generator).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        dropped = (torch.rand(b, generator=generator) < dropout).to(device)
        x, target = flow_pair(latents, noise, sigma)
        return nn.functional.mse_loss(self(x, sigma, embeddings, dropped).float(), target)

    @torch.no_grad()
    def render(
        self,
        embeddings: Tensor,
        *,
        negative: Tensor | None = None,
        sampling: FlowSampling | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """Images of embeddings (B, D), see `Renderer.render`."""
        self.check_embeddings(embeddings, negative)
        sampling = self.sampling if sampling is None else sampling
        if not isinstance(sampling, FlowSampling):
            raise InputError(f"sampling is a {type(sampling).__name__}; FlowRenderer takes a FlowSampling")
        embeddings = embeddings.to(self.device)
        away = torch.zeros_like(embeddings) if negative is None else negative.to(self.device)
        both = torch.cat([embeddings, away])
        b = len(embeddings)
        dropped = torch.zeros(2 * b, dtype=torch.bool, device=self.device)
        dropped[b:] = negative is None

        def velocity(x: Tensor, t: float, guided: bool) -> Tensor | tuple[Tensor, Tensor]:
            rows = 2 * b if guided else b
            times = torch.full((rows,), t, device=x.device)
            v = self(torch.cat([x, x]) if guided else x, times, both[:rows], dropped[:rows])
            return (v[:b], v[b:]) if guided else v

        start = (noise or same_draw(b)).normal(b, *self.latent_shape, device=self.device)
        return self.autoencoder.decode(sample_flow(velocity, start, sampling))


def _patches(latents: Tensor, p: int) -> Tensor:
    """(B, C, h, w) → (B, L, C p²)."""
    return nn.functional.pixel_unshuffle(latents, p).flatten(2).transpose(1, 2)


def _unpatched(x: Tensor, p: int, shape: tuple[int, int, int]) -> Tensor:
    """(B, L, C p²) → (B, C, h, w)."""
    _, h, w = shape
    return nn.functional.pixel_shuffle(x.transpose(1, 2).reshape(len(x), -1, h // p, w // p), p)
