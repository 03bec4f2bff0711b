"""Continuous tokenizer of one grid: a variational autoencoder whose latents are the tokens (LDM, arXiv
2112.10752; the defaults are KL-16, over which MAR and xAR generate)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.nn.posterior import Posterior
from visgen.tokenizers.base import check_sides
from visgen.tokenizers.convolutional import check_sizes
from visgen.tokenizers.grid import GridTokenizer
from visgen.tokenizers.kl_networks import KL16_SCALING_FACTOR, build_network
from visgen.tokenizers.tokens import Grid, ImageTokens


@dataclass(frozen=True, eq=False)
class KLPass:
    """A training pass: reconstruction (B, 3, H, W) of a draw, and the posterior it was drawn from."""

    reconstruction: Tensor
    posterior: Posterior


class KLTokenizer(GridTokenizer):
    """Encoder, posterior, decoder; a token is the latent of a position times `scaling_factor`.

    Images of other sizes than `image_size` encode and decode too; tokens carry their grid.

    Args:
        image_size: side in pixels of the images it is used for.
        network: {"kind": "AutoencoderKL" or "conv", keywords…}, see `visgen.tokenizers.kl_networks`; an
            AutoencoderKL without keywords is KL-16.
        latent_channels: C of the latents; None = as many as the network's decoder takes.
        scaling_factor: brings latents to unit variance: generators see latents times it.
        variational: False = the network tells only means, and every log variance is 1.

    Raises:
        InputError: sizes or a network that do not fit.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        network: dict[str, Any] = {"kind": "AutoencoderKL"},  # noqa: B006  a config value, never changed
        latent_channels: int | None = None,
        scaling_factor: float = KL16_SCALING_FACTOR,
        variational: bool = True,
    ) -> None:
        super().__init__()
        self._init_tuples()
        self.autoencoder = build_network(network)
        channels = self.autoencoder.channels if latent_channels is None else latent_channels
        self.register_to_config(latent_channels=channels)
        check_sizes(image_size=image_size, latent_channels=channels)
        if image_size % self.downsampling:
            raise InputError(f"image_size={image_size} must be a multiple of {self.downsampling} pixels")
        if not 0 < scaling_factor < float("inf"):
            raise InputError(f"scaling_factor={scaling_factor} must be above 0")
        moments = channels * (2 if variational else 1)
        self.quant_conv = nn.Conv2d(self.autoencoder.encoded_channels, moments, 1)
        self.post_quant_conv = nn.Conv2d(channels, self.autoencoder.channels, 1)

    @property
    def downsampling(self) -> int:
        return self.autoencoder.downsampling

    def features(self, images: Tensor) -> Tensor:
        """What the encoder says of images (B, 3, H, W), before the convolution that makes moments of it.

        Raises:
            InputError: sides that are no multiples of the downsampling.
        """
        check_sides(images, self.downsampling)
        return self.autoencoder.encode(images.to(self.dtype))

    def moments(self, features: Tensor) -> Tensor:
        """Means, then log variances (B, 2C, h, w) of features, float32, unclamped."""
        found = self.quant_conv(features.to(self.dtype)).float()
        return found if self.config.variational else torch.cat([found, torch.ones_like(found)], dim=1)

    def posterior(self, images: Tensor) -> Posterior:
        """Laws (B, C, h, w) of the latents of images, before scaling, float32; log variances are clamped to
        [-30, 20].

        Raises:
            InputError: as `features`.
        """
        return Posterior.of_moments(self.moments(self.features(images)))

    def tokens_of_features(self, features: Tensor, noise: Noise | None = None) -> ImageTokens:
        """Latents (B, h·w, C) times `scaling_factor`, float32: means, or draws where `noise` is given."""
        law = Posterior.of_moments(self.moments(features))
        latents = (law.mean if noise is None else law.sample(noise)) * self.config.scaling_factor
        return ImageTokens(Grid(*latents.shape[-2:]), latents=latents.flatten(2).transpose(1, 2).contiguous())

    def embed_tokens(self, tokens: ImageTokens) -> Tensor:
        """Scaled latents (B, C, h, w) of tokens, float32.

        Raises:
            InputError: ids, another layout, a mask, or another number of channels.
        """
        channels = self.config.latent_channels
        if tokens.latents is None or not isinstance(tokens.layout, Grid):
            raise InputError(f"{type(self).__name__} decodes latents (B, L, {channels}) in a Grid layout")
        if tokens.latents.shape[2] != channels:
            raise InputError(f"latents of {tokens.latents.shape[2]} channels must have {channels}")
        self.check_complete(tokens)
        grid = (tokens.layout.h, tokens.layout.w)
        return tokens.latents.float().transpose(1, 2).unflatten(2, grid).contiguous()

    @torch.no_grad()
    def decode_latents(self, fhat: Tensor) -> Tensor:
        """Images of scaled latents (B, C, h, w), as generators make them; about [-1, 1], unclamped."""
        return self.decode_features(fhat.float() / self.config.scaling_factor)

    def decode_features(self, latents: Tensor) -> Tensor:
        """Images of latents (B, C, h, w) before scaling, with gradients."""
        return self.autoencoder.decode(self.post_quant_conv(latents.to(self.dtype)))

    def forward(self, images: Tensor, normal: Tensor, *, frozen: bool = False) -> KLPass:
        """Training pass.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            normal: standard normal draws (B, C, H/f, W/f).
            frozen: the network is not trained; its encoder then runs without gradients.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            features = self.features(images)
        law = Posterior.of_moments(self.moments(features))
        return KLPass(self.decode_features(law.at(normal)), law)
