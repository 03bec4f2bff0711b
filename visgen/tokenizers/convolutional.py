"""What tokenizers of a convolutional encoder, a quantizer and a convolutional decoder have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.cnn import ConvDecoder, ConvEncoder
from visgen.nn.model import VisgenModel
from visgen.tokenizers.base import ImageTokenizer, check_sides


@dataclass(frozen=True, eq=False)
class TokenizerPass:
    """A training pass: reconstruction (B, 3, H, W) and what the quantizer said (None: nothing was
    quantised)."""

    reconstruction: Tensor
    quantization: Any


class ConvTokenizer(VisgenModel, ImageTokenizer):
    """Base of `VARTokenizer` and `VQTokenizer`: subclasses have `vq` and say how it quantises a feature."""

    encoder: ConvEncoder
    decoder: ConvDecoder
    quant_conv: nn.Conv2d
    post_quant_conv: nn.Conv2d
    vq: Any

    @property
    def downsampling(self) -> int:
        """Pixels per latent position, along each side."""
        return self.config.patch_size * 2 ** (len(self.config.ch_mult) - 1)

    @property
    def codebook(self) -> Tensor:
        return self.vq.embedding.weight

    @property
    def quantizer(self) -> Any:
        return self.vq

    def features(self, images: Tensor) -> Tensor:
        """Continuous feature (B, C, H/f, W/f) in front of the quantizer, float32.

        Raises:
            InputError: sides that are no multiples of `downsampling`.
        """
        check_sides(images, self.downsampling)
        return self.quant_conv(self.encoder(images)).float()

    def latents(self, images: Tensor) -> Tensor:
        """`features` as the quantizer takes them."""
        return self.features(images)

    def quantize(self, f: Tensor) -> Any:
        """Training pass of the quantizer over latents f (B, C, h, w)."""
        return self.vq(f)

    @torch.no_grad()
    def decode_latents(self, fhat: Tensor) -> Tensor:
        """Images of quantised latents (B, C, h, w), unclamped."""
        return self.decode_features(fhat)

    def decode_features(self, fhat: Tensor) -> Tensor:
        """The same with gradients."""
        return self.decoder(self.post_quant_conv(fhat.to(self.dtype)))

    def forward(self, images: Tensor, *, quantize: bool = True, joint: bool = True) -> TokenizerPass:
        """Training pass, straight through the quantizer.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            quantize: False decodes the continuous latents (warm-up).
            joint: gradients of the reconstruction reach the codebook too, not only the encoder (the papers').
        """
        f = self.latents(images)
        if not quantize:
            return TokenizerPass(self.decode_features(f), None)
        out = self.quantize(f)
        straight = out.fhat + (f - f.detach()) if joint else f + (out.fhat - f).detach()
        return TokenizerPass(self.decode_features(straight), out)


def build_cnn(
    config: Any, encoder_channels: int, decoder_channels: int, decoder_sizes: dict[str, Any] | None
) -> tuple[ConvEncoder, ConvDecoder]:
    """Encoder and decoder of a configuration (ch, ch_mult, num_res_blocks, norm_groups, attention,
    mid_blocks, patch_size, in_channels); `decoder_sizes` is what differs in the decoder.

    Raises:
        InputError: decoder sizes that know another key, or do not enlarge as much as the encoder reduces.
    """
    cnn: dict[str, Any] = {
        "ch": config.ch,
        "ch_mult": tuple(config.ch_mult),
        "num_res_blocks": config.num_res_blocks,
        "groups": config.norm_groups,
        "attention": config.attention,
        "mid_blocks": config.mid_blocks,
        "patch_size": config.patch_size,
    }
    own = decoder_sizes or {}
    _check_decoder_sizes(own, config.patch_size * 2 ** (len(config.ch_mult) - 1))
    encoder = ConvEncoder(in_channels=config.in_channels, out_channels=encoder_channels, **cnn)
    return encoder, ConvDecoder(in_channels=decoder_channels, out_channels=config.in_channels, **cnn | own)


def _check_decoder_sizes(own: dict[str, Any], downsampling: int) -> None:
    names = ("ch", "ch_mult", "num_res_blocks", "patch_size")
    if surplus := [name for name in own if name not in names]:
        raise InputError(f"decoder_sizes={own!r} holds {surplus[0]!r}; it may hold {', '.join(names)}")
    if own and own.get("patch_size", 0) * 2 ** (len(own.get("ch_mult", ())) - 1) != downsampling:
        raise InputError(
            f"decoder_sizes={own!r} must hold patch_size and ch_mult that enlarge {downsampling} times: "
            "patch_size · 2^(levels − 1)"
        )


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """Raise `InputError` for a size, or a list of sizes, that is not 1 or more."""
    for name, size in sizes.items():
        numbers = [size] if isinstance(size, int) else size
        if not numbers or min(numbers) < 1:
            raise InputError(f"{name}={size} must be 1 or more")


def check_ids(ids: Tensor, codebook_size: int) -> None:
    """Raise `InputError` for ids beyond the codebook."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < codebook_size:
        told = f"ids run from {int(ids.min())} to {int(ids.max())}"
        raise InputError(f"{told}; this codebook has 0 … {codebook_size - 1}")
