"""VQ tokenizer of one grid of ids (VQGAN; the layout of LlamaGen, arXiv 2406.06525, section 2.1)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.nn.quantizers.vq import VectorQuantizer
from visgen.tokenizers.convolutional import ConvTokenizer, build_cnn, check_ids, check_sizes
from visgen.tokenizers.tokens import Grid, ImageTokens


class VQTokenizer(ConvTokenizer):
    """Convolutional encoder, nearest code per position, convolutional decoder.

    Images of other sizes than `image_size` encode and decode too; tokens carry their grid.

    Args:
        image_size: side in pixels of the images it is used for.
        codebook_size, code_dim: V codes of C channels.
        latent_channels: channels between CNN and the 1×1 convolutions around the quantizer.
        normalize_codes: unit length of vectors and codes, see `VectorQuantizer`; beta, entropy_ratio: ditto.
        ch, ch_mult, num_res_blocks, norm_groups: size of the CNN (official: 128, (1, 1, 2, 2, 4), 2, 32).
        attention, mid_blocks, patch_size: leaner CNNs for small models; the defaults are the official layout.
        decoder_sizes: what of ch, ch_mult, num_res_blocks and patch_size differs in the decoder; None =
            nothing.

    Raises:
        InputError: sizes below 1, or decoder sizes that do not fit.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        codebook_size: int = 16384,
        code_dim: int = 8,
        latent_channels: int = 256,
        in_channels: int = 3,
        ch: int = 128,
        ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        norm_groups: int = 32,
        attention: bool = True,
        mid_blocks: bool = True,
        patch_size: int = 1,
        normalize_codes: bool = True,
        beta: float = 0.25,
        entropy_ratio: float = 0.0,
        decoder_sizes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._init_tuples()
        check_sizes(
            image_size=image_size, ch_mult=ch_mult, codebook_size=codebook_size, ch=ch, patch_size=patch_size
        )
        self.encoder, self.decoder = build_cnn(self.config, latent_channels, latent_channels, decoder_sizes)
        self.quant_conv = nn.Conv2d(latent_channels, code_dim, 1)
        self.post_quant_conv = nn.Conv2d(code_dim, latent_channels, 1)
        self.vq = VectorQuantizer(codebook_size, code_dim, normalize_codes, beta, entropy_ratio)

    @property
    def pixel_size(self) -> int:
        return self.config.image_size

    @property
    def layout(self) -> Grid:
        side = self.config.image_size // self.downsampling
        return Grid(side, side)

    def latents(self, images: Tensor) -> Tensor:
        """The feature that is quantised (B, C, H/f, W/f), of unit length where codes are."""
        return self.vq.prepare(self.features(images))

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        num_tokens: int | None = None,
        max_error: float | None = None,
        noise: Noise | None = None,
    ) -> ImageTokens:
        """Ids in raster order.

        Raises:
            InputError: a knob that this tokenizer lacks (num_tokens, max_error), or sizes that do not fit.
        """
        self.check_knobs(num_tokens, max_error)
        f = self.features(images.to(self.dtype))
        return ImageTokens(Grid(f.shape[-2], f.shape[-1]), ids=self.vq.encode(f))

    @torch.no_grad()
    def decode(self, tokens: ImageTokens, *, sampling: object = None, noise: Noise | None = None) -> Tensor:
        """Images (B, 3, H, W), unclamped."""
        return self.decode_latents(self.embed_tokens(tokens))

    def embed_tokens(self, tokens: ImageTokens) -> Tensor:
        """Codes (B, C, h, w) of tokens.

        Raises:
            InputError: latents, another layout, a mask, sub-codes, or ids beyond the codebook.
        """
        if tokens.ids is None or tokens.ids.ndim != 2 or not isinstance(tokens.layout, Grid):
            raise InputError("VQTokenizer decodes ids (B, L) in a Grid layout")
        if tokens.mask is not None and not bool(tokens.mask.all()):
            raise InputError("VQTokenizer decodes whole images: a mask that leaves tokens out does not fit")
        check_ids(tokens.ids, self.config.codebook_size)
        b, (h, w) = len(tokens.ids), (tokens.layout.h, tokens.layout.w)
        return self.vq.embed(tokens.ids).view(b, h, w, -1).permute(0, 3, 1, 2).contiguous()
