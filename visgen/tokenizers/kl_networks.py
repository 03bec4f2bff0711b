"""The networks of `KLTokenizer` without the 1×1 convolutions around its latents: images become features that
tell the posterior, and latents become images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import AutoencoderKL
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.tokenizers.latents import VQCodec

# KL-16 of MAR and xAR: keywords of `AutoencoderKL`
KL16: Mapping[str, Any] = {
    "block_out_channels": (128, 128, 256, 256, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4 + ("AttnDownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "sample_size": 256,
}
KL16_SCALING_FACTOR = 0.2325  # 1 / standard deviation of its latents on ImageNet


class KLNetwork(nn.Module):
    """Base of the networks; pixels are in [-1, 1].

    Attributes:
        encoded_channels: of what `encode` gives.
        channels: of what `decode` takes.
        downsampling: pixels per position, along each side.
    """

    encoded_channels: int
    channels: int
    downsampling: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Features (B, encoded_channels, H/f, W/f) of images (B, 3, H, W)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images of (B, channels, h, w), unclamped."""

    @property
    @abstractmethod
    def last_layer(self) -> Tensor:
        """The decoder's last weight, for a GAN's adaptive weight."""


class DiffusersNetwork(KLNetwork):
    """Encoder and decoder of diffusers' `AutoencoderKL`.

    Args:
        config: keywords of `AutoencoderKL`; those left out are those of KL-16.

    Raises:
        InputError: a keyword that `KLTokenizer` has itself, or that only diffusers' pipelines apply.
    """

    # Of the 1×1 convolutions and of the scale of latents, which are the tokenizer's
    foreign: ClassVar[tuple[str, ...]] = (
        *("use_quant_conv", "use_post_quant_conv", "scaling_factor"),
        *("shift_factor", "latents_mean", "latents_std"),
    )

    def __init__(self, **config: Any) -> None:
        super().__init__()
        if foreign := [name for name in self.foreign if name in config]:
            raise InputError(
                f"network.{foreign[0]} is no matter of the network; leave it out, and give scaling_factor, "
                "latent_channels and variational beside network"
            )
        convolutions = {"use_quant_conv": False, "use_post_quant_conv": False}
        self.vae = AutoencoderKL(**{**KL16, **config, **convolutions})
        self.channels = self.vae.config.latent_channels
        self.encoded_channels = 2 * self.channels
        self.downsampling = 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        return self.vae.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decoder(latents)

    @property
    def last_layer(self) -> Tensor:
        return self.vae.decoder.conv_out.weight


class ConvNetwork(VQCodec, KLNetwork):
    """The convolutions of a `VQTokenizer` with codes of unit length (see `VQCodec`): features are its unit
    vectors times sqrt(C), and what is decoded is scaled to unit length first.

    Args:
        config: keywords of `VQTokenizer`; there is no codebook.
    """

    section: ClassVar[str] = "network"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.encoded_channels = self.channels

    @property
    def last_layer(self) -> Tensor:
        return self.cnn.decoder.conv_out.weight


NETWORKS: Mapping[str, type[KLNetwork]] = {"AutoencoderKL": DiffusersNetwork, "conv": ConvNetwork}


def build_network(config: Mapping[str, Any]) -> KLNetwork:
    """A network of {"kind": "AutoencoderKL" or "conv", keywords…}, with random weights.

    Raises:
        InputError: another kind, or keywords that do not fit.
    """
    kind, keywords = str(config.get("kind")), {k: v for k, v in config.items() if k != "kind"}
    if kind not in NETWORKS:
        raise InputError(f"network.kind={kind!r}; {' and '.join(NETWORKS)} are known")
    try:
        return NETWORKS[kind](**keywords)
    except TypeError as error:
        raise InputError(f"network of kind {kind!r}: {error}") from error
