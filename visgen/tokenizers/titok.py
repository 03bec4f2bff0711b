"""TiTok (arXiv 2406.07550) and TA-TiTok (arXiv 2501.07730): an image as a short sequence of tokens, each of
which sees the whole image."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.maskgit_cnn import MaskGITDecoder
from visgen.nn.model import VisgenModel
from visgen.nn.noise import Noise
from visgen.nn.posterior import Posterior
from visgen.nn.quantizers.vq import VectorQuantization, VectorQuantizer
from visgen.nn.vit import init_vit
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.convolutional import TokenizerPass, check_ids, check_sizes
from visgen.tokenizers.titok_transformer import TiTokDecoder, TiTokEncoder
from visgen.tokenizers.tokens import ImageTokens, Sequence1D


class TiTokTokenizer(VisgenModel, ImageTokenizer):
    """Transformer encoder, quantizer, transformer decoder; N tokens without a place in the image.

    Pixels are [-1, 1] as everywhere; the networks work on [0, 1], as the official ones do. Positions are
    learned, so images have exactly `image_size` pixels: `preprocess` makes them of any picture.

    Args:
        image_size: side in pixels; patch_size: of a patch, for the encoder.
        decoder_patch_size: for the decoder; None = patch_size.
        num_tokens: N.
        continuous: latents of a normal law (the VAE models) instead of codes.
        codebook_size, token_dim: V codes of C channels.
        normalize_codes, beta: see `VectorQuantizer`.
        encoder_sizes, decoder_sizes: width, depth, heads (small: 512, 8, 8; base: 768, 12, 12; large: 1024,
            24, 16).
        head: "rgb" = pixels; "vqgan" = logits over the codes of MaskGIT's VQGAN, whose decoder makes pixels
            of the mean code (the official "legacy" models); "codes" = the same without that decoder, as
            training starts: no pixels.
        vqgan_codebook_size, vqgan_dim, vqgan_ch, vqgan_ch_mult, vqgan_blocks: that VQGAN (official: 1024,
            256, 128, (1, 1, 2, 2, 4), 2).
        text_length, text_dim: TA-TiTok's features of a caption (77 of 768 from CLIP ViT-L/14-336), which
            `decode` then needs; 0 = none.

    Raises:
        InputError: sizes below 1, or patches that do not divide the image.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        patch_size: int = 16,
        decoder_patch_size: int | None = None,
        num_tokens: int = 32,
        continuous: bool = False,
        codebook_size: int = 4096,
        token_dim: int = 12,
        normalize_codes: bool = True,
        beta: float = 0.25,
        encoder_sizes: tuple[int, int, int] = (1024, 24, 16),
        decoder_sizes: tuple[int, int, int] = (1024, 24, 16),
        head: Literal["rgb", "vqgan", "codes"] = "vqgan",
        vqgan_codebook_size: int = 1024,
        vqgan_dim: int = 256,
        vqgan_ch: int = 128,
        vqgan_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        vqgan_blocks: int = 2,
        text_length: int = 0,
        text_dim: int = 0,
    ) -> None:
        super().__init__()
        self._init_tuples()
        own = decoder_patch_size or patch_size
        _check(self.config, own)
        codes = 0 if head == "rgb" else vqgan_codebook_size
        channels = 2 * token_dim if continuous else token_dim
        side, legacy = image_size // patch_size, head != "rgb"
        self.encoder = TiTokEncoder(encoder_sizes, side, num_tokens, patch_size, channels, legacy)
        self.latent_tokens = nn.Parameter(
            encoder_sizes[0] ** -0.5 * torch.randn(num_tokens, encoder_sizes[0])
        )
        if not continuous:
            self.vq = VectorQuantizer(codebook_size, token_dim, normalize_codes, beta)
        self.decoder = TiTokDecoder(
            decoder_sizes, image_size // own, num_tokens, token_dim, own, codes, text_length, text_dim
        )
        if head == "vqgan":
            self.pixel_codes = nn.Embedding(vqgan_codebook_size, vqgan_dim)
            self.pixel_decoder = MaskGITDecoder(3, vqgan_ch, vqgan_ch_mult, vqgan_blocks, vqgan_dim)
        init_vit(self.encoder)
        init_vit(self.decoder)

    @property
    def pixel_size(self) -> int:
        return self.config.image_size

    @property
    def layout(self) -> Sequence1D:
        return Sequence1D(self.config.num_tokens)

    @property
    def codebook(self) -> Tensor | None:
        return None if self.config.continuous else self.vq.codes

    @property
    def quantizer(self) -> VectorQuantizer | None:
        return None if self.config.continuous else self.vq

    def features(self, images: Tensor) -> Tensor:
        """What is quantised (B, C, 1, N), or mean and log variance (B, 2C, 1, N), float32.

        Raises:
            InputError: images of another size.
        """
        side = self.config.image_size
        if images.shape[-2:] != (side, side):
            told = f"images of {tuple(images.shape[-2:])} pixels must have {side} × {side}"
            raise InputError(f"{told}: this tokenizer has learned positions; use preprocess")
        return self.encoder((images.to(self.dtype) + 1) / 2, self.latent_tokens).float()

    def posterior(self, images: Tensor) -> Posterior:
        """Laws of the latents of images, of a continuous tokenizer."""
        return Posterior.of_moments(self.features(images))

    def latents(self, images: Tensor) -> Tensor:
        """The feature that is quantised, of unit length where codes are; of a continuous tokenizer, the
        mean."""
        if self.config.continuous:
            return self.posterior(images).mean
        return self.vq.prepare(self.features(images))

    def quantize(self, f_BC1N: Tensor) -> VectorQuantization:
        """Training pass of the quantizer."""
        return self.vq(f_BC1N)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        num_tokens: int | None = None,
        max_error: float | None = None,
        noise: Noise | None = None,
    ) -> ImageTokens:
        """Ids (B, N), or latents (B, N, C): the means, or draws where `noise` is given.

        Raises:
            InputError: a knob that this tokenizer lacks (num_tokens, max_error), or images of another size.
        """
        self.check_knobs(num_tokens, max_error)
        if not self.config.continuous:
            return ImageTokens(self.layout, ids=self.vq.encode(self.features(images)))
        law = self.posterior(images)
        latents = law.mean if noise is None else law.sample(noise)
        return ImageTokens(self.layout, latents=latents.squeeze(2).transpose(1, 2))

    @torch.no_grad()
    def decode(
        self,
        tokens: ImageTokens,
        *,
        sampling: Any = None,
        noise: Noise | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """Images (B, 3, H, W), about [-1, 1], unclamped.

        Args:
            text: (B, T, D) features of captions, for TA-TiTok.

        Raises:
            InputError: tokens that do not fit, or a tokenizer that gives codes instead of pixels.
        """
        return self.decode_latents(self.embed_tokens(tokens), text)

    @torch.no_grad()
    def decode_latents(self, fhat_BC1N: Tensor, text: Tensor | None = None) -> Tensor:
        """Images of quantised latents, unclamped."""
        return self.decode_features(fhat_BC1N, text)

    def decode_features(self, fhat_BC1N: Tensor, text: Tensor | None = None) -> Tensor:
        """The same with gradients."""
        if self.config.head == "codes":
            raise InputError('head="codes" gives codes of another tokenizer, no pixels; see code_logits')
        out = self.code_logits(fhat_BC1N, text) if self.config.head == "vqgan" else None
        if out is None:
            pixels = self.decoder(fhat_BC1N.to(self.dtype), self._text(text))
        else:
            codes = torch.einsum("bvhw,vc->bchw", out.float().softmax(dim=1), self.pixel_codes.weight.float())
            pixels = self.pixel_decoder(codes.to(self.dtype))
        return pixels * 2 - 1

    def code_logits(self, fhat_BC1N: Tensor, text: Tensor | None = None) -> Tensor:
        """Logits (B, codes, G, G) over the VQGAN's codes, of the heads "vqgan" and "codes".

        Raises:
            InputError: a tokenizer that predicts pixels.
        """
        if self.config.head == "rgb":
            raise InputError('head="rgb" predicts pixels, no codes')
        return self.decoder(fhat_BC1N.to(self.dtype), self._text(text))

    def embed_tokens(self, tokens: ImageTokens) -> Tensor:
        """Quantised latents (B, C, 1, N) of tokens.

        Raises:
            InputError: another layout or kind of tokens, a mask, or ids beyond the codebook.
        """
        if tokens.layout != self.layout:
            raise InputError(f"tokens of layout {tokens.layout} do not fit a tokenizer of {self.layout}")
        if tokens.mask is not None and not bool(tokens.mask.all()):
            raise InputError("TiTokTokenizer decodes all tokens: a mask that leaves some out does not fit")
        values, continuous = tokens.latents, self.config.continuous
        if (values is not None) != continuous or tokens.values.ndim != (3 if continuous else 2):
            raise InputError(f"TiTokTokenizer decodes {'latents (B, N, C)' if continuous else 'ids (B, N)'}")
        if tokens.ids is not None:
            check_ids(tokens.ids, self.config.codebook_size)
            values = self.vq.embed(tokens.ids)
        assert values is not None
        if values.shape[2] != self.config.token_dim:
            raise InputError(f"latents of {values.shape[2]} channels must have {self.config.token_dim}")
        return values.transpose(1, 2)[:, :, None]

    def _text(self, text: Tensor | None) -> Tensor | None:
        """Features of captions in the model's type."""
        length, width = self.config.text_length, self.config.text_dim
        if not length and text is None:
            return None
        if text is None or not length or text.shape[1:] != (length, width):
            told = "None" if text is None else str(tuple(text.shape))
            wanted = f"(B, {length}, {width}) features of captions" if length else "None"
            raise InputError(f"text={told}: this tokenizer decodes with {wanted}")
        return text.to(self.dtype)

    def forward(
        self, images: Tensor, *, quantize: bool = True, joint: bool = True, text: Tensor | None = None
    ) -> TokenizerPass:
        """Training pass, straight through the quantizer; arguments as of `ConvTokenizer.forward`. A
        continuous tokenizer decodes its means."""
        f = self.latents(images)
        if self.config.continuous or not quantize:
            return TokenizerPass(self.decode_features(f, text), None)
        out = self.quantize(f)
        straight = out.fhat + (f - f.detach()) if joint else f + (out.fhat - f).detach()
        return TokenizerPass(self.decode_features(straight, text), out)

    def code_loss(self, images: Tensor, codes_BGG: Tensor) -> dict[str, Tensor]:
        """The official first stage of training: cross-entropy of the codes that MaskGIT's VQGAN gives the
        images, and the quantizer's terms ("loss" is their sum)."""
        f = self.latents(images)
        out = self.quantize(f)
        logits = self.code_logits(f + (out.fhat - f).detach()).float()
        entropy = F.cross_entropy(logits, codes_BGG)
        return {"loss": entropy + out.loss, "codes": entropy, "quantizer": out.loss}


def _check(config: Any, decoder_patch_size: int) -> None:
    check_sizes(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_tokens=config.num_tokens,
        codebook_size=config.codebook_size,
        token_dim=config.token_dim,
        encoder_sizes=config.encoder_sizes,
        decoder_sizes=config.decoder_sizes,
    )
    if config.head not in ("rgb", "vqgan", "codes"):
        raise InputError(f"head={config.head!r} must be rgb, vqgan or codes")
    if config.image_size % config.patch_size or config.image_size % decoder_patch_size:
        patches = f"patch_size={config.patch_size} and decoder_patch_size={decoder_patch_size}"
        raise InputError(f"{patches} must divide image_size={config.image_size}")
