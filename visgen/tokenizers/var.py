"""VAR's multi-scale residual VQ tokenizer (arXiv 2404.02905): an image becomes id maps of growing size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.cnn import ConvDecoder, ConvEncoder
from visgen.nn.model import VisgenModel
from visgen.nn.noise import Noise
from visgen.nn.quantizers.multiscale import MultiScaleQuantization, MultiScaleVQ
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.tokens import ImageTokens, Scales


@dataclass(frozen=True, eq=False)
class TokenizerPass:
    """A training pass: reconstruction (B, 3, H, W) and what the quantizer said."""

    reconstruction: Tensor
    quantization: MultiScaleQuantization | None


class VARTokenizer(VisgenModel, ImageTokenizer):
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
        _check_sizes(
            scales=scales, ch_mult=ch_mult, codebook_size=codebook_size, ch=ch, patch_size=patch_size
        )
        cnn: dict[str, Any] = {
            "ch": ch,
            "ch_mult": tuple(ch_mult),
            "num_res_blocks": num_res_blocks,
            "groups": norm_groups,
            "attention": attention,
            "mid_blocks": mid_blocks,
            "patch_size": patch_size,
        }
        self.encoder = ConvEncoder(in_channels=in_channels, out_channels=latent_channels, **cnn)
        own = decoder_sizes or {}
        _check_decoder_sizes(own, self.downsampling)
        self.decoder = ConvDecoder(in_channels=latent_channels, out_channels=in_channels, **cnn | own)
        padding = quant_conv_kernel // 2
        self.quant_conv = nn.Conv2d(latent_channels, latent_channels, quant_conv_kernel, padding=padding)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, quant_conv_kernel, padding=padding)
        self.vq = MultiScaleVQ(
            codebook_size, latent_channels, len(scales), num_phi, phi_ratio, cosine_codes, beta
        )

    @property
    def downsampling(self) -> int:
        """Pixels per latent position, along each side."""
        return self.config.patch_size * 2 ** (len(self.config.ch_mult) - 1)

    @property
    def pixel_size(self) -> int:
        return self.config.scales[-1] * self.downsampling

    @property
    def layout(self) -> Scales:
        return Scales.square(self.config.scales)

    @property
    def codebook(self) -> Tensor:
        return self.vq.embedding.weight

    @property
    def quantizer(self) -> MultiScaleVQ:
        return self.vq

    def latents(self, images: Tensor) -> Tensor:
        """Continuous feature f (B, C, H/f, W/f) before quantisation, float32."""
        side = self.downsampling
        if images.shape[-2] % side or images.shape[-1] % side:
            raise InputError(
                f"images of {tuple(images.shape[-2:])} pixels: both sides must be multiples of {side}"
            )
        f = self.quant_conv(self.encoder(images)).float()
        if self.config.normalize_latents:
            f = f * torch.rsqrt(f.square().mean(dim=1, keepdim=True) + 1e-6)
        return f

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
        if num_tokens is not None or max_error is not None:
            raise InputError("VARTokenizer has a fixed number of tokens: leave num_tokens and max_error out")
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
        if tokens.mask is not None and not bool(tokens.mask.all()):
            raise InputError("VARTokenizer decodes whole images: a mask that leaves tokens out does not fit")
        _check_ids(tokens.ids, self.config.codebook_size)
        return list(self.vq.accumulate(list(tokens.per_scale()), tokens.layout.sizes))

    @torch.no_grad()
    def decode_latents(self, fhat: Tensor) -> Tensor:
        """Images of accumulated latents f̂ (B, C, h, w), unclamped."""
        return self._decode(fhat)

    def _decode(self, fhat: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(fhat.to(self.dtype)))

    def forward(self, images: Tensor, *, quantize: bool = True, joint: bool = True) -> TokenizerPass:
        """Training pass, straight through the quantizer.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            quantize: False decodes the continuous latents (warm-up).
            joint: gradients of the reconstruction reach codebook and φ too, not only the encoder (the
                paper's).
        """
        f = self.latents(images)
        if not quantize:
            return TokenizerPass(self._decode(f), None)
        out = self.vq(f, self.layout.sizes)
        straight = out.fhat + (f - f.detach()) if joint else f + (out.fhat - f).detach()
        return TokenizerPass(self._decode(straight), out)


def _check_decoder_sizes(own: dict[str, Any], downsampling: int) -> None:
    names = ("ch", "ch_mult", "num_res_blocks", "patch_size")
    if surplus := [name for name in own if name not in names]:
        raise InputError(f"decoder_sizes={own!r} holds {surplus[0]!r}; it may hold {', '.join(names)}")
    if own and own.get("patch_size", 0) * 2 ** (len(own.get("ch_mult", ())) - 1) != downsampling:
        raise InputError(
            f"decoder_sizes={own!r} must hold patch_size and ch_mult that enlarge {downsampling} times: "
            "patch_size · 2^(levels − 1)"
        )


def _check_sizes(**sizes: int | Sequence[int]) -> None:
    for name, size in sizes.items():
        numbers = [size] if isinstance(size, int) else size
        if not numbers or min(numbers) < 1:
            raise InputError(f"{name}={size} must be 1 or more")


def _check_ids(ids: Tensor, codebook_size: int) -> None:
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < codebook_size:
        told = f"ids run from {int(ids.min())} to {int(ids.max())}"
        raise InputError(f"{told}; this codebook has 0 … {codebook_size - 1}")


def _scales(scales: Sequence[int | tuple[int, int]]) -> Scales:
    return Scales(tuple((s, s) if isinstance(s, int) else (int(s[0]), int(s[1])) for s in scales))
