"""The frozen 2-D tokenizers under KARL: what its encoder reads beside the pixels, and what its decoder
predicts (arXiv 2507.07995; VQGAN of MAGE, KL-16 VAE of MAR, or our own `VQTokenizer`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.nn.maskgit_cnn import MaskGITDecoder, MaskGITEncoder
from visgen.nn.noise import Noise
from visgen.nn.quantizers.vq import VectorQuantizer
from visgen.tokenizers.kl_networks import KL16, KL16_SCALING_FACTOR
from visgen.tokenizers.vq import VQTokenizer


class KARLBase(nn.Module):
    """A tokenizer of one grid; pixels are in [-1, 1].

    Attributes:
        channels: C of the features.
        outputs: numbers that KARL's decoder predicts per position: logits of codes, or a latent.
        downsampling: pixels per position, along each side.
    """

    channels: int
    outputs: int
    downsampling: int

    @abstractmethod
    def features(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Features (B, C, h, w) of images (B, 3, H, W)."""

    @abstractmethod
    def distillation(self, predicted_BLO: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Losses of predictions against this tokenizer's own tokens; their sum is minimised."""

    @abstractmethod
    def decode(self, predicted_BLO: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images of predictions (B, h·w, outputs), unclamped."""

    @property
    @abstractmethod
    def last_layer(self) -> Tensor:
        """The decoder's last weight, for a GAN's adaptive weight."""


def _as_grid(x_BLC: Tensor, grid: tuple[int, int]) -> Tensor:
    return x_BLC.transpose(1, 2).unflatten(2, grid)


def code_losses(logits_BLV: Tensor, ids_BL: Tensor, codes_VC: Tensor) -> dict[str, Tensor]:
    """Cross-entropy with the true codes, and the mean squared error of the expected code vectors."""
    logits = logits_BLV.float()
    expected = logits.softmax(dim=-1) @ codes_VC
    nll = F.cross_entropy(logits.flatten(0, 1), ids_BL.flatten())
    return {"nll": nll, "code": F.mse_loss(expected, codes_VC[ids_BL])}


class VQGANBase(KARLBase):
    """MAGE's VQGAN; the image feature is the encoder's output in front of the quantizer.

    Args:
        ch, ch_mult, num_res_blocks, groups: size of the CNN.
        embed_dim, n_embed: channels of a code, number of codes.
    """

    def __init__(
        self,
        ch: int = 128,
        ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        embed_dim: int = 256,
        n_embed: int = 1024,
        groups: int = 32,
    ) -> None:
        super().__init__()
        sizes = (ch, tuple(ch_mult), num_res_blocks, embed_dim, groups)
        self.encoder, self.decoder = MaskGITEncoder(3, *sizes), MaskGITDecoder(3, *sizes)
        self.quantize = VectorQuantizer(n_embed, embed_dim, normalize=False)
        self.channels, self.outputs, self.downsampling = embed_dim, n_embed, 2 ** (len(ch_mult) - 1)

    def features(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        return self.encoder((images + 1) / 2)

    def ids(self, features: Tensor) -> Tensor:
        """Nearest codes, int64 (B, h·w)."""
        return self.quantize.encode(features)

    def distillation(self, predicted_BLO: Tensor, features: Tensor) -> dict[str, Tensor]:
        with torch.autocast(features.device.type, enabled=False):
            return code_losses(predicted_BLO, self.ids(features), self.quantize.codes.detach())

    def decode(self, predicted_BLO: Tensor, grid: tuple[int, int]) -> Tensor:
        expected = predicted_BLO.float().softmax(dim=-1) @ self.quantize.codes
        return self.decode_features(_as_grid(expected, grid))

    def decode_features(self, features: Tensor) -> Tensor:
        """Images of features or codes (B, C, h, w)."""
        return 2 * self.decoder(features.to(self.decoder.conv_in.weight.dtype)) - 1

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight


class VAEBase(KARLBase):
    """A KL autoencoder; features are a posterior sample (the mean without noise) times the scaling factor.

    It sees pixels in [0, 1], and decodes predictions *without* dividing by the factor: stage 2 trains the
    decoder to that, and official weights need it.

    Args:
        config: keywords of diffusers' `AutoencoderKL`; those left out are those of KL-16.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.vae = AutoencoderKL(**{**KL16, "scaling_factor": KL16_SCALING_FACTOR, **config})
        self.channels = self.outputs = self.vae.config.latent_channels
        self.downsampling = 2 ** (len(self.vae.config.block_out_channels) - 1)

    def features(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        posterior = self.vae.encode((images + 1) / 2).latent_dist
        latents = posterior.mean
        if noise is not None:
            latents = latents + posterior.std * noise.normal(*latents.shape, device=latents.device)
        return latents * self.vae.config.scaling_factor

    def distillation(self, predicted_BLO: Tensor, features: Tensor) -> dict[str, Tensor]:
        return {"code": F.mse_loss(predicted_BLO.float(), features.flatten(2).transpose(1, 2).float())}

    def decode(self, predicted_BLO: Tensor, grid: tuple[int, int]) -> Tensor:
        return 2 * self.vae.decode(_as_grid(predicted_BLO, grid).to(self.vae.dtype)).sample - 1

    @property
    def last_layer(self) -> Tensor:
        return self.vae.decoder.conv_out.weight


class VQBase(KARLBase):
    """Our `VQTokenizer` with codes of unit length; features are its unit vectors times sqrt(C), of unit
    variance.

    Args:
        predict: "codes" (logits of all codes, as over the VQGAN) or "latents" (the feature itself, as over
            the VAE: no output layer of codebook size, which a small model cannot afford).
        config: keywords of `VQTokenizer`.
    """

    def __init__(self, predict: str = "codes", **config: Any) -> None:
        super().__init__()
        if predict not in ("codes", "latents"):
            raise InputError(f"base.predict={predict!r} must be codes or latents")
        self.cnn = construct(VQTokenizer, config, "base")
        if not self.cnn.config.normalize_codes:
            raise InputError("base of kind vq needs normalize_codes=True, codes of unit length")
        self.channels, self.downsampling = self.cnn.config.code_dim, self.cnn.downsampling
        self.predicts_codes = predict == "codes"
        self.outputs = self.cnn.config.codebook_size if self.predicts_codes else self.channels
        self.scale = self.channels**0.5

    def features(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        return self.cnn.latents(images) * self.scale

    def distillation(self, predicted_BLO: Tensor, features: Tensor) -> dict[str, Tensor]:
        if not self.predicts_codes:
            return {"code": F.mse_loss(predicted_BLO.float(), features.flatten(2).transpose(1, 2).float())}
        with torch.autocast(features.device.type, enabled=False):
            codes = self.cnn.vq.codes.detach() * self.scale
            return code_losses(predicted_BLO, self.cnn.vq.encode(features), codes)

    def decode(self, predicted_BLO: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.predicts_codes:
            latents = predicted_BLO.float().softmax(dim=-1) @ self.cnn.vq.codes
        else:
            latents = predicted_BLO / self.scale
        return self.cnn.decode_features(_as_grid(latents, grid))

    @torch.no_grad()
    def take(self, tokenizer: VQTokenizer) -> None:
        """Copy the weights of a trained tokenizer.

        Raises:
            InputError: a tokenizer of other sizes.
        """
        try:
            self.cnn.load_state_dict(tokenizer.state_dict())
        except RuntimeError as error:
            raise InputError(f"base of kind vq has other sizes than that tokenizer ({error})") from error

    @property
    def last_layer(self) -> Tensor:
        return self.cnn.decoder.conv_out.weight


BASES: Mapping[str, type[KARLBase]] = {"vqgan": VQGANBase, "vae": VAEBase, "vq": VQBase}


def build_base(config: Mapping[str, Any]) -> KARLBase:
    """A base of {"kind": "vqgan", "vae" or "vq", keywords…}, with random weights.

    Raises:
        InputError: another kind, or keywords that do not fit.
    """
    kind, keywords = config.get("kind"), {k: v for k, v in config.items() if k != "kind"}
    if not isinstance(kind, str) or kind not in BASES:
        raise InputError(f"base.kind={kind!r}; {', '.join(BASES)} are known")
    try:
        return construct(BASES[kind], keywords, "base")
    except TypeError as error:
        raise InputError(f"base of kind {kind!r}: {error}") from error
