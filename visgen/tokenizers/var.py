"""VAR's multi-scale residual VQ tokenizer (arXiv 2404.02905): an image becomes id maps of growing size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.nn.quantizers.multiscale import MultiScaleQuantization, MultiScaleVQ
from visgen.tokenizers.convolutional import ConvTokenizer, build_cnn, check_ids, check_sizes
from visgen.tokenizers.tokens import ImageTokens, Scales


class VARTokenizer(ConvTokenizer):
    """Convolutional encoder, multi-scale residual quantizer, convolutional decoder.

    Args:
        scales: sides of the square id maps; pixels = scales[-1] · patch_size · 2^(levels − 1).
        codebook_size: V.
        latent_channels: C of codes and latents.
        ch, ch_mult, num_res_blocks, norm_groups: size of the CNN (official: 160, (1, 1, 2, 2, 4), 2, 32).
        attention, mid_blocks, patch_size: leaner CNNs for small models; the defaults are the official layout.
        num_phi, phi_ratio, cosine_codes, beta: see `MultiScaleVQ`.
        quant_conv_kernel: kernel of the convolutions around the quantizer.
        normalize_latents: scale latents to unit RMS over channels, which keeps codes and latents together
            early on.
        decoder_sizes: what of ch, ch_mult, num_res_blocks and patch_size differs in the decoder; None =
            nothing.

    Raises:
        InputError: decoder sizes that know another key, or do not enlarge as much as the encoder reduces.
    """

    @register_to_config
    def __init__(
        self,
        scales: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        codebook_size: int = 4096,
        latent_channels: int = 32,
        in_channels: int = 3,
        ch: int = 160,
        ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        norm_groups: int = 32,
        attention: bool = True,
        mid_blocks: bool = True,
        patch_size: int = 1,
        num_phi: int = 4,
        phi_ratio: float = 0.5,
        cosine_codes: bool = False,
        beta: float = 0.25,
        quant_conv_kernel: int = 3,
        normalize_latents: bool = False,
        decoder_sizes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._init_tuples()
        check_sizes(scales=scales, ch_mult=ch_mult, codebook_size=codebook_size, ch=ch, patch_size=patch_size)
        self.encoder, self.decoder = build_cnn(self.config, latent_channels, latent_channels, decoder_sizes)
        padding = quant_conv_kernel // 2
        self.quant_conv = nn.Conv2d(latent_channels, latent_channels, quant_conv_kernel, padding=padding)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, quant_conv_kernel, padding=padding)
        self.vq = MultiScaleVQ(
            codebook_size, latent_channels, len(scales), num_phi, phi_ratio, cosine_codes, beta
        )

    @property
    def pixel_size(self) -> int:
        return self.config.scales[-1] * self.downsampling

    @property
    def layout(self) -> Scales:
        return Scales.square(self.config.scales)

    def latents(self, images: Tensor) -> Tensor:
        """Continuous feature f (B, C, H/f, W/f) before quantisation, float32."""
        f = self.features(images)
        if self.config.normalize_latents:
            f = f * torch.rsqrt(f.square().mean(dim=1, keepdim=True) + 1e-6)
        return f

    def quantize(self, f: Tensor) -> MultiScaleQuantization:
        return self.vq(f, self.layout.sizes)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        num_tokens: int | None = None,
        max_error: float | None = None,
        noise: Noise | None = None,
        scales: Sequence[int | tuple[int, int]] | None = None,
    ) -> ImageTokens:
        """Ids of all scales. `scales` (sides or (h, w) pairs) overrides the model's; the last must be the
        latent size.

        Raises:
            InputError: a knob that this tokenizer lacks (num_tokens, max_error), or sizes that do not fit.
        """
        self.check_knobs(num_tokens, max_error)
        f = self.latents(images.to(self.dtype))
        layout = _scales(scales) if scales is not None else self._layout_for(f)
        return ImageTokens(layout, ids=self.vq.encode(f, layout.sizes)[0])

    def _layout_for(self, f: Tensor) -> Scales:
        if f.shape[-2:] != self.layout.sizes[-1]:
            side = self.pixel_size
            raise InputError(
                f"latents of {tuple(f.shape[-2:])} do not fit {side}×{side} pixels: resize, or pass scales="
            )
        return self.layout

    @torch.no_grad()
    def decode(self, tokens: ImageTokens, *, sampling: object = None, noise: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W) of all scales, unclamped."""
        return self.decode_latents(self.embed_tokens(tokens)[-1])

    @torch.no_grad()
    def progressive_decode(self, tokens: ImageTokens) -> list[Tensor]:
        """The image after each scale, coarse to fine; the last equals `decode`."""
        return [self.decode_latents(fhat) for fhat in self.embed_tokens(tokens)]

    def embed_tokens(self, tokens: ImageTokens) -> list[Tensor]:
        """f̂ (B, C, h, w) after each scale.

        Raises:
            InputError: latents, another layout, a mask, sub-codes, or ids beyond the codebook.
        """
        if tokens.ids is None or tokens.ids.ndim != 2 or not isinstance(tokens.layout, Scales):
            raise InputError("VARTokenizer decodes ids (B, L) in a Scales layout")
        self.check_complete(tokens)
        check_ids(tokens.ids, self.config.codebook_size)
        return list(self.vq.accumulate(list(tokens.per_scale()), tokens.layout.sizes))


def _scales(scales: Sequence[int | tuple[int, int]]) -> Scales:
    return Scales(tuple((s, s) if isinstance(s, int) else (int(s[0]), int(s[1])) for s in scales))
