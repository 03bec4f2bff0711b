"""ELM's binary autoencoder (arXiv 2410.16257): a position of the grid becomes n bits, read as K sub-codes."""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.cnn import Downsample, Level, Mid, Upsample
from visgen.nn.noise import Noise
from visgen.nn.quantizers.binary import BinaryQuantizer, bits_to_ids, ids_to_bits
from visgen.tokenizers.base import check_sides
from visgen.tokenizers.convolutional import TokenizerPass, check_ids, check_sizes
from visgen.tokenizers.grid import GridTokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens

MAX_BITS = 62


class BAEEncoder(nn.Module):
    """Images (B, 3, H, W) → features (B, C, H/f, W/f); no activation before the last convolution.

    `attention` says of each level whether attention follows its blocks.
    """

    def __init__(
        self,
        channels: int,
        ch: int,
        ch_mult: tuple[int, ...],
        blocks: int,
        attention: list[bool],
        groups: int,
    ) -> None:
        super().__init__()
        widths = [ch] + [ch * mult for mult in ch_mult]
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.down = nn.ModuleList()
        for i, (before, after) in enumerate(pairwise(widths)):
            level = Level([before] + [after] * blocks, groups, attention[i])
            if i < len(ch_mult) - 1:
                level.downsample = Downsample(after)
            self.down.append(level)
        self.mid = Mid(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        return self.conv_out(self.norm_out(self.mid(h)))


class BAEDecoder(nn.Module):
    """Features (B, C, h, w) → images (B, 3, h·f, w·f); `up.i` is level i (0 = finest), run from the last.

    `norm_first` puts a group norm before everything; there is no activation before the last convolution.
    """

    def __init__(
        self,
        channels: int,
        ch: int,
        ch_mult: tuple[int, ...],
        blocks: int,
        attention: list[bool],
        groups: int,
        norm_first: bool,
    ) -> None:
        super().__init__()
        widths = [ch * mult for mult in ch_mult]
        self.norm_in = nn.GroupNorm(groups, channels, eps=1e-6) if norm_first else None
        self.conv_in = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.mid = Mid(widths[-1], groups)
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[min(i + 1, len(widths) - 1)]
            level = Level([before] + [width] * blocks, groups, attention[i])
            if i > 0:
                level.upsample = Upsample(width)
            self.up.append(level)
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z if self.norm_in is None else self.norm_in(z)))
        for level in reversed(self.up):
            h = level(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(self.norm_out(h))


class BAETokenizer(GridTokenizer):
    """Convolutional encoder, binary quantizer, convolutional decoder.

    Pixels are [-1, 1] as everywhere; the networks work on [0, 1], as the official ones do.

    Args:
        num_codes: K, sub-codes per position ("token_each"; ELM "2-10" has 2).
        code_bits: bits of a sub-code ("code_dim"; ELM "2-10" has 10); ids run to 2^code_bits − 1.
        image_size: pixels; attention stands where image_size / 2^level is one of `attention_sizes`.
        channels: C of features and bit vectors (official: 256).
        ch, ch_mult, num_res_blocks: size of the CNN (official: 128, (1, 1, 2, 2, 4), 2).
        decoder_blocks: residual blocks of a level of the decoder; None = `num_res_blocks`.
        norm_first: a group norm before the decoder.
        norm_groups: groups of every norm (official: 32).

    Raises:
        InputError: sizes below 1, or sub-codes of more than 62 bits.
    """

    @register_to_config
    def __init__(
        self,
        num_codes: int = 2,
        code_bits: int = 10,
        image_size: int = 256,
        attention_sizes: tuple[int, ...] = (16,),
        channels: int = 256,
        ch: int = 128,
        ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        decoder_blocks: int | None = None,
        norm_first: bool = True,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        self._init_tuples()
        check_sizes(num_codes=num_codes, code_bits=code_bits, image_size=image_size, ch=ch, ch_mult=ch_mult)
        if code_bits > MAX_BITS:
            raise InputError(f"code_bits={code_bits} must be at most {MAX_BITS}: ids are 64-bit integers")
        attention = [image_size // 2**i in attention_sizes for i in range(len(ch_mult))]
        self.encoder = BAEEncoder(channels, ch, tuple(ch_mult), num_res_blocks, attention, norm_groups)
        self.bits_quantizer = BinaryQuantizer(num_codes * code_bits, channels)
        blocks = num_res_blocks if decoder_blocks is None else decoder_blocks
        self.decoder = BAEDecoder(channels, ch, tuple(ch_mult), blocks, attention, norm_groups, norm_first)

    @property
    def codebook_size(self) -> int:
        """Ids of a sub-code."""
        return 2**self.config.code_bits

    @property
    def quantizer(self) -> BinaryQuantizer:
        return self.bits_quantizer

    def features(self, images: Tensor) -> Tensor:
        """Features (B, C, H/f, W/f) before the quantizer, of images in [-1, 1].

        Raises:
            InputError: sides that are no multiples of the downsampling.
        """
        check_sides(images, self.downsampling)
        return self.encoder((images.to(self.dtype) + 1) / 2)

    def tokens_of_features(self, features: Tensor, noise: Noise | None = None) -> ImageTokens:
        """Ids (B, L, K), or (B, L) where K is 1. `noise` draws the bits, as the authors' code always does."""
        quantizer = self.bits_quantizer
        return self.tokens_of(quantizer.bits(quantizer.probabilities(features), noise))

    def tokens_of(self, bits_BNHW: Tensor) -> ImageTokens:
        """The ids of bits (B, n, h, w)."""
        ids = bits_to_ids(bits_BNHW, self.config.num_codes)
        layout = Grid(*bits_BNHW.shape[-2:])
        return ImageTokens(layout, ids=ids.squeeze(-1) if self.config.num_codes == 1 else ids)

    def bits_of(self, tokens: ImageTokens) -> Tensor:
        """The bits (B, n, h, w) of ids.

        Raises:
            InputError: latents, another layout, a mask, another number of sub-codes, or ids beyond them.
        """
        ids, codes = tokens.ids, self.config.num_codes
        if ids is None or not isinstance(tokens.layout, Grid):
            raise InputError(f"BAETokenizer decodes ids (B, L, {codes}) in a Grid layout")
        self.check_complete(tokens)
        ids = ids[..., None] if ids.ndim == 2 else ids
        if ids.shape[2] != codes:
            raise InputError(f"ids of {ids.shape[2]} sub-codes do not fit a tokenizer of num_codes={codes}")
        check_ids(ids, self.codebook_size)
        return ids_to_bits(ids, self.config.code_bits, (tokens.layout.h, tokens.layout.w))

    def embed_tokens(self, tokens: ImageTokens) -> Tensor:
        """Sums (B, C, h, w) of the vectors of set bits."""
        return self.bits_quantizer.lookup(self.bits_of(tokens))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images of quantised features (B, C, h, w), about [-1, 1], unclamped."""
        return self._decode(latents)

    def _decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents.to(self.dtype)) * 2 - 1

    def forward(self, images: Tensor, noise: Noise | None = None) -> TokenizerPass:
        """Training pass, straight through the bits; `noise` draws them, as in the paper."""
        out = self.bits_quantizer(self.features(images), noise)
        return TokenizerPass(self._decode(out.fhat), out)
