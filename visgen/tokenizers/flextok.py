"""FlexTok (arXiv 2502.13967): an image as 1 to R ordered tokens, coarse to fine; every prefix is an image.

A transformer with register tokens resamples an autoencoder's latents, finite scalar quantization makes an id
of each register, and a rectified-flow transformer makes latents again of any number of first ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.flow import FlowSampling, Velocity, flow_pair, sample_flow
from visgen.nn.model import VisgenModel
from visgen.nn.noise import Noise
from visgen.nn.quantizers.fsq import FSQ
from visgen.schema import read
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.flextok_trunks import (
    DecoderSize,
    FlexTokDecoder,
    FlexTokEncoder,
    Registers,
    TrunkSize,
)
from visgen.tokenizers.latents import build_codec
from visgen.tokenizers.tokens import ImageTokens, Sequence1D

# The official autoencoder: Stable Diffusion's with 16 channels
OFFICIAL_LATENTS: Mapping[str, Any] = {
    "kind": "AutoencoderKL",
    "latent_channels": 16,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
OFFICIAL_SAMPLING: Mapping[str, Any] = {
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "guidance": "apg",
}
LISTED_CODES = 2**20  # largest codebook that is written out
# Both passes of guidance share a batch where an image has so many times more patches than all have registers
# (20 % faster for one image of 64 patches on a CPU, where calls cost the time, and slower for 16 of them)
TOGETHER = 8


@dataclass(frozen=True, eq=False)
class FlexTokPass:
    """A training pass: squared error of the velocity per image (B,), the velocity, and the ids (B, k)."""

    losses: Tensor
    velocity: Tensor
    ids: Tensor


class FlexTokTokenizer(VisgenModel, ImageTokenizer):
    """Autoencoder, register encoder, FSQ, flow decoder.

    Args:
        image_size: side in pixels of the images it is used for, and that it decodes to.
        latents: the frozen autoencoder, see `build_codec`; None = the official one.
        encoder_sizes, decoder_sizes: fields of `TrunkSize` and `DecoderSize` that differ from their defaults.
        levels: of FSQ, per channel.
        num_registers: R, the largest number of tokens.
        sampling: default of `decode`, fields of `FlowSampling`; None = the authors': 20 steps, APG of 7.5.

    Raises:
        InputError: sizes that do not fit.
    """

    knobs: ClassVar[frozenset[str]] = frozenset({"num_tokens"})
    starts_from_noise: ClassVar[bool] = True

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        latents: dict[str, Any] | None = None,
        encoder_sizes: dict[str, Any] | None = None,
        decoder_sizes: dict[str, Any] | None = None,
        levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5),
        num_registers: int = 256,
        sampling: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._init_tuples()
        if num_registers < 1:
            raise InputError(f"num_registers={num_registers} must be 1 or more")
        self.fsq = FSQ(levels)
        self.codec = build_codec(OFFICIAL_LATENTS if latents is None else latents).requires_grad_(False)
        if image_size < 1 or image_size % self.codec.downsampling:
            raise InputError(f"image_size={image_size} must be a multiple of {self.codec.downsampling}")
        rest = (self.codec.channels, num_registers, len(levels))
        self.encoder = FlexTokEncoder(read(TrunkSize, encoder_sizes, "encoder_sizes"), *rest)
        self.decoder = FlexTokDecoder(read(DecoderSize, decoder_sizes, "decoder_sizes"), *rest)
        self.sampling = read(FlowSampling, OFFICIAL_SAMPLING if sampling is None else sampling, "sampling")

    @property
    def pixel_size(self) -> int:
        return self.config.image_size

    @property
    def layout(self) -> Sequence1D:
        return Sequence1D(self.config.num_registers)

    @property
    def codebook(self) -> Tensor | None:
        """Codes (V, F), or None where there are more than a million."""
        size = self.fsq.codebook_size
        return self.fsq.codes(torch.arange(size, device=self.device)) if size <= LISTED_CODES else None

    @property
    def quantizer(self) -> FSQ:
        return self.fsq

    @property
    def latent_size(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents of an image of `pixel_size`."""
        side = self.config.image_size // self.codec.downsampling
        return self.codec.channels, side, side

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        num_tokens: int | None = None,
        max_error: float | None = None,
        noise: Noise | None = None,
    ) -> ImageTokens:
        """The first `num_tokens` ids of each image, all where it is None.

        Args:
            images: sides may differ from `image_size`, up to the size of the position table.
            noise: draws the latents from the autoencoder's posterior, instead of taking its mean.

        Raises:
            InputError: `max_error`, a number of tokens out of range, or sizes that do not fit.
        """
        self.check_knobs(num_tokens, max_error)
        count = self.config.num_registers if num_tokens is None else num_tokens
        z = self.encoder(self.codec.encode(images, noise), count)
        return ImageTokens(Sequence1D(count), ids=self.fsq(z).ids)

    @torch.no_grad()
    def decode(
        self,
        tokens: ImageTokens,
        *,
        sampling: FlowSampling | None = None,
        noise: Noise | None = None,
        collapse: bool = True,
    ) -> Tensor:
        """Images (B, 3, s, s) of the first tokens of each image, unclamped.

        Args:
            tokens: ids (B, n), n up to R; a mask says how many of each image count.
            sampling: steps and guidance; None = the model's own.
            noise: None gives every image the same draw.
            collapse: False masks all registers densely, as the official code does; for comparison.

        Raises:
            InputError: tokens of another kind, beyond the codebook, or more than R.
        """
        latents = self.decode_latents(tokens, sampling=sampling, noise=noise, collapse=collapse)
        return self.codec.decode(latents)

    @torch.no_grad()
    def decode_latents(
        self,
        tokens: ImageTokens,
        *,
        sampling: FlowSampling | None = None,
        noise: Noise | None = None,
        size: tuple[int, int] | None = None,
        collapse: bool = True,
    ) -> Tensor:
        """The latents (B, C, h, w) that `decode` turns into images; `size` = (h, w) other than its own."""
        sampling = self._checked(sampling)
        codes, counts = self._codes(tokens)
        noise = Noise.per_image([(0, 0)] * len(codes)) if noise is None else noise
        channels, *own = self.latent_size
        start = noise.normal(len(codes), channels, *(size or own), device=codes.device)
        registers = self.decoder.registers(codes, counts, collapse=collapse)
        few = registers.tokens[..., 0].numel() * TOGETHER <= self.decoder.patches.count(start)
        together = collapse and few
        null = self.decoder.null_registers(registers, collapse=collapse, alike=together)
        return sample_flow(self._velocity(registers, null, sampling, together), start, sampling)

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        sigma_B: Tensor,
        counts: int | Tensor,
        null_B: Tensor | None = None,
    ) -> FlexTokPass:
        """Training pass over latents (B, C, h, w) of the autoencoder (arXiv 2502.13967, section 3).

        Args:
            noise: standard normal, like `latents`.
            sigma_B: share of noise.
            counts: tokens that are kept, of all images or (B,); no more registers than the most are encoded.
            null_B: bool, images trained without condition.
        """
        most = counts if isinstance(counts, int) else max(1, int(counts.max()))
        quantized = self.fsq(self.encoder(latents, min(most, self.config.num_registers)))
        registers = self.decoder.registers(quantized.codes, counts, null_B)
        x, target = flow_pair(latents, noise, sigma_B)
        velocity = self.decoder(x, registers, self.decoder.time_vectors(sigma_B)).float()
        losses = (velocity - target).square().flatten(1).mean(1)
        return FlexTokPass(losses, velocity, quantized.ids)

    def _velocity(
        self, registers: Registers, null: Registers, sampling: FlowSampling, together: bool
    ) -> Velocity:
        """The decoder as `sample_flow` calls it; what depends on time alone is computed here, for all
        steps."""
        times = self.decoder.time_vectors(torch.tensor(sampling.times, device=registers.tokens.device))
        both = Registers.cat(registers, null) if together else None

        def velocity(x: Tensor, t: float, guided: bool) -> Tensor | tuple[Tensor, Tensor]:
            now = times.at(sampling.times.index(t))
            if guided and both is not None:
                cond, uncond = self.decoder(torch.cat([x, x]), both, now).chunk(2)
                return cond, uncond
            cond = self.decoder(x, registers, now)
            return (cond, self.decoder(x, null, now)) if guided else cond

        return velocity

    def _checked(self, sampling: Any) -> FlowSampling:
        if sampling is not None and not isinstance(sampling, FlowSampling):
            raise InputError(f"sampling is a {type(sampling).__name__}; FlexTok takes a FlowSampling")
        return self.sampling if sampling is None else sampling

    def _codes(self, tokens: ImageTokens) -> tuple[Tensor, int | Tensor]:
        """Codes (B, n, F) of tokens, and how many of each image count."""
        if tokens.ids is None or tokens.ids.ndim != 2 or not isinstance(tokens.layout, Sequence1D):
            raise InputError("FlexTok decodes ids (B, n) in a Sequence1D layout")
        if tokens.layout.n > self.config.num_registers:
            raise InputError(f"{tokens.layout.n} tokens are more than the {self.config.num_registers} here")
        if tokens.mask is None:
            return self.fsq.codes(tokens.ids), tokens.layout.n
        counts = tokens.mask.sum(1)
        prefix = torch.arange(tokens.layout.n, device=tokens.mask.device) < counts[:, None]
        if not torch.equal(prefix, tokens.mask):
            raise InputError(
                "mask: FlexTok decodes the first tokens of an image, so that none can be missing"
            )
        return self.fsq.codes(tokens.ids.masked_fill(~prefix, 0)), counts
