"""Continuous latents under a flow model: a frozen autoencoder that maps images to (B, C, h, w) and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.nn.noise import Noise
from visgen.tokenizers.base import check_sides
from visgen.tokenizers.vq import VQTokenizer


class LatentCodec(nn.Module):
    """Base of the codecs: latents have about unit variance, pixels are in [-1, 1].

    Attributes:
        channels: C of the latents.
        downsampling: pixels per latent position, along each side.
    """

    channels: int
    downsampling: int

    @abstractmethod
    def encode(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Latents (B, C, H/f, W/f) of images; a sample of the posterior where `noise` is given."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), unclamped."""


class KLCodec(LatentCodec):
    """diffusers' `AutoencoderKL`, its latents times `scaling_factor`.

    Args:
        config: keywords of `AutoencoderKL`; those left out are its defaults.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.vae = AutoencoderKL(**config)
        self.channels = self.vae.config.latent_channels
        self.downsampling = 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        check_sides(images, self.downsampling)
        posterior = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        latents = posterior.mean
        if noise is not None:
            latents = latents + posterior.std * noise.normal(*latents.shape, device=latents.device)
        return latents * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample


class VQCodec(LatentCodec):
    """The convolutions of a `VQTokenizer` with codes of unit length, in front of its quantizer.

    Latents are the unit vectors times sqrt(C), which has unit variance; decoding scales to unit length again,
    so that a flow model's errors in length do not count.

    Args:
        config: keywords of `VQTokenizer`; the codebook is not kept.
    """

    section: ClassVar[str] = "latents"  # of a configuration, for messages

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.cnn = construct(VQTokenizer, config | {"codebook_size": 1}, self.section)
        if not self.cnn.config.normalize_codes:
            raise InputError(f"{self.section}.normalize_codes must be True: codes of unit length")
        self.channels, self.downsampling = self.cnn.config.code_dim, self.cnn.downsampling

    def encode(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        return self.cnn.latents(images.to(self.cnn.dtype)) * self.channels**0.5

    def decode(self, latents: Tensor) -> Tensor:
        return self.cnn.decode_features(F.normalize(latents.float(), dim=1))

    @torch.no_grad()
    def take(self, tokenizer: VQTokenizer) -> None:
        """Copy the convolutions of a trained tokenizer of the same sizes."""
        state = {k: v for k, v in tokenizer.state_dict().items() if not k.startswith("vq.")}
        own = {k: v for k, v in self.cnn.state_dict().items() if k.startswith("vq.")}
        self.cnn.load_state_dict(state | own)


CODECS: Mapping[str, type[LatentCodec]] = {"AutoencoderKL": KLCodec, "VQTokenizer": VQCodec}


def build_codec(config: Mapping[str, Any]) -> LatentCodec:
    """A codec of {"kind": "AutoencoderKL" or "VQTokenizer", keywords…}, with random weights.

    Raises:
        InputError: another kind, or keywords that do not fit.
    """
    kind, keywords = str(config.get("kind")), {k: v for k, v in config.items() if k != "kind"}
    if kind not in CODECS:
        raise InputError(f"latents of kind={kind!r}; {' and '.join(CODECS)} are known")
    try:
        return CODECS[kind](**keywords)
    except TypeError as error:
        raise InputError(f"latents of kind={kind!r}: {error}") from error
