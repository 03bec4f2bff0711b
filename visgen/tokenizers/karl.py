"""KARL: one pass tells which of the 1-D tokens an image needs at a wanted error (arXiv 2507.07995).

Counts are upper bounds on how complex an image is: a halting head switches off the latents that it holds for
unnecessary. The active ones need not be a prefix, though training pushes the halted ones to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from visgen.errors import InputError, shown
from visgen.nn.model import VisgenModel
from visgen.nn.noise import Noise
from visgen.nn.quantizers.vq import VectorQuantization, VectorQuantizer
from visgen.tokenizers.base import ImageTokenizer, check_sides
from visgen.tokenizers.convolutional import check_ids, check_sizes
from visgen.tokenizers.karl_bases import build_base
from visgen.tokenizers.karl_network import KARLDecoder, KARLEncoder
from visgen.tokenizers.tokens import ImageTokens, Sequence1D

ERROR_BINS = (
    *(0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.09, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2),
    *(0.24, 0.28, 0.32, 0.38),
)


@dataclass(frozen=True, eq=False)
class Seen:
    """What all passes over the same images share.

    Attributes:
        features: of the base (B, C, h, w).
        tokens: image tokens (B, h·w, width), without positions.
    """

    features: Tensor
    tokens: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.features.shape[-2], self.features.shape[-1]

    def __getitem__(self, rows: slice) -> Seen:
        """Some of the images."""
        return Seen(self.features[rows], self.tokens[rows])


@dataclass(frozen=True, eq=False)
class KARLCodes:
    """What the encoder says of T latents.

    Attributes:
        codes: (B, T, D) that are decoded: of unit length and quantised (straight through), or continuous.
        halt_logits: (B, T).
        active: bool (B, T), halting probability not above the threshold.
        quantization: where codes were quantised, else None.
    """

    codes: Tensor
    halt_logits: Tensor
    active: Tensor
    quantization: VectorQuantization | None


class KARLTokenizer(VisgenModel, ImageTokenizer):
    """Adaptive 1-D tokenizer over a 2-D one; the defaults are the released ImageNet model's.

    Args:
        image_size: side in pixels of the images it is used for.
        base: {"kind": "vqgan", "vae" or "vq", keywords…}, see `visgen.tokenizers.karl_bases`.
        encoder_width, encoder_layers, encoder_heads, decoder_…: of the transformers.
        max_latents: latents that there are; `num_tokens` of them are used unless `encode` asks otherwise.
        quantize: False leaves codes continuous.
        codebook_size, code_dim, beta, entropy_ratio: of the codebook of unit vectors, see `VectorQuantizer`.
            Small models that quantise from the first step collapse onto one code without an entropy term.
        max_grid: side of the tables of positions, in positions.
        error_bins: errors that can be asked for, ascending: mean absolute error of [0, 1] pixels.
        default_error: what `encode` asks for where nothing is said.
        halt_threshold: halting probability above which a latent is switched off.
        halt_width: hidden channels of the halting head.
        bin_errors: per bin, the error that most images stay below when that bin is asked for, as measured by
            `visgen.training.karl.calibrate_errors`; a wanted error then means the largest bin whose measured
            error is not above it. None = the bin of the error itself (official).

    Raises:
        InputError: sizes, bins or a base that do not fit.
    """

    knobs: ClassVar[frozenset[str]] = frozenset({"num_tokens", "max_error"})

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        base: dict[str, Any] = {"kind": "vqgan"},  # noqa: B006  a config value, never changed
        encoder_width: int = 1024,
        encoder_layers: int = 8,
        encoder_heads: int = 8,
        decoder_width: int = 1024,
        decoder_layers: int = 8,
        decoder_heads: int = 8,
        max_latents: int = 512,
        num_tokens: int = 256,
        quantize: bool = True,
        codebook_size: int = 4096,
        code_dim: int = 12,
        beta: float = 0.25,
        entropy_ratio: float = 0.0,
        max_grid: int = 64,
        error_bins: tuple[float, ...] = ERROR_BINS,
        default_error: float = 0.05,
        halt_threshold: float = 0.75,
        halt_width: int = 512,
        bin_errors: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self._init_tuples()
        check_sizes(image_size=image_size, num_tokens=num_tokens, max_grid=max_grid, code_dim=code_dim)
        if num_tokens > max_latents:
            raise InputError(f"num_tokens={num_tokens} must be at most max_latents={max_latents}")
        _check_bins(error_bins, bin_errors)
        self.base_tokenizer = build_base(base)
        patch = self.base_tokenizer.downsampling
        if image_size % patch or image_size // patch > max_grid:
            raise InputError(
                f"image_size={image_size} must be 1 to {max_grid} times the base's {patch} pixels"
            )
        shared = {"max_grid": max_grid, "max_latents": max_latents, "code_dim": code_dim}
        self.encoder = KARLEncoder(
            encoder_width,
            encoder_layers,
            encoder_heads,
            features=self.base_tokenizer.channels,
            patch_size=patch,
            error_bins=tuple(error_bins),
            halt_width=halt_width,
            **shared,
        )
        self.vq = VectorQuantizer(codebook_size, code_dim, True, beta, entropy_ratio) if quantize else None
        self.decoder = KARLDecoder(
            decoder_width, decoder_layers, decoder_heads, outputs=self.base_tokenizer.outputs, **shared
        )

    @property
    def pixel_size(self) -> int:
        return self.config.image_size

    @property
    def layout(self) -> Sequence1D:
        return Sequence1D(self.config.num_tokens)

    @property
    def codebook(self) -> Tensor | None:
        return None if self.vq is None else self.vq.embedding.weight

    @property
    def quantizer(self) -> VectorQuantizer | None:
        return self.vq

    def see(self, images: Tensor, noise: Noise | None = None) -> Seen:
        """The base's features and the image tokens of images (B, 3, H, W) in [-1, 1].

        Raises:
            InputError: sides that are no multiples of the patches.
        """
        check_sides(images, self.base_tokenizer.downsampling)
        images = images.to(self.dtype)
        features = self.base_tokenizer.features(images, noise)
        return Seen(features, self.encoder.image_tokens((images + 1) / 2, features))

    def tokenize(self, seen: Seen, bins_B: Tensor, num_tokens: int, *, quantize: bool = True) -> KARLCodes:
        """One pass of the encoder, with gradients: T latents at the wanted errors' bins.

        Without `quantize` a quantised variant yields its unit vectors as they are, for the start of training.
        """
        hidden = self.encoder.hidden(seen.tokens, seen.grid, bins_B, num_tokens)
        codes, halt = self.encoder.heads(hidden[:, -num_tokens:])
        active = halt.float().sigmoid() <= self.config.halt_threshold
        if self.vq is None:
            return KARLCodes(codes, halt, active, None)
        columns = codes.transpose(1, 2)[..., None]
        unit = self.vq.prepare(columns)
        if not quantize:
            return KARLCodes(unit[..., 0].transpose(1, 2), halt, active, None)
        out = self.vq(columns)
        straight = unit + (out.fhat - unit).detach()
        return KARLCodes(straight[..., 0].transpose(1, 2), halt, active, out)

    def predict(self, codes_BTD: Tensor, grid: tuple[int, int], active_BT: Tensor | None = None) -> Tensor:
        """What the base decodes from, (B, h·w, outputs), with gradients; None = all tokens are active."""
        return self.decoder(codes_BTD.to(self.dtype), grid, active_BT)

    def forward(
        self, seen: Seen, bins_B: Tensor, num_tokens: int, *, halting: bool, quantize: bool = True
    ) -> tuple[KARLCodes, Tensor]:
        """A training pass: codes and predictions, of the active codes alone if `halting`."""
        out = self.tokenize(seen, bins_B, num_tokens, quantize=quantize)
        return out, self.predict(out.codes, seen.grid, out.active if halting else None)

    def bins(self, errors_B: Tensor) -> Tensor:
        """Index of the smallest bin not below each error, in float32; the last one beyond all."""
        edges = torch.tensor(self.config.error_bins, dtype=torch.float32, device=errors_B.device)
        return torch.bucketize(errors_B.float().contiguous(), edges).clamp_(max=len(edges) - 1)

    def wanted_bins(self, errors_B: Tensor) -> Tensor:
        """The bins that `encode` asks for, calibrated where `bin_errors` say how."""
        measured = self.config.bin_errors
        if measured is None:
            return self.bins(errors_B)
        edges = torch.tensor(measured, dtype=torch.float32, device=errors_B.device)
        return (torch.bucketize(errors_B.float().contiguous(), edges, right=True) - 1).clamp_(min=0)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        num_tokens: int | None = None,
        max_error: float | Tensor | None = None,
        noise: Noise | None = None,
    ) -> ImageTokens:
        """Ids, or latents of a continuous variant, with a mask of the active tokens.

        Args:
            images: (B, 3, H, W) in [-1, 1], sides multiples of the patch, up to `max_grid` patches.
            num_tokens: T, 1 to `max_latents`. Without `max_error` all T are active: a fixed length.
            max_error: wanted mean absolute error of [0, 1] pixels, one number or (B,).
            noise: for the base's posterior sample, if it has one.

        Raises:
            InputError: values out of range.
        """
        return self._encode(self.see(images, noise), num_tokens, max_error)

    @torch.no_grad()
    def encode_errors(
        self,
        images: Tensor,
        errors: Sequence[float | Tensor],
        *,
        num_tokens: int | None = None,
        noise: Noise | None = None,
    ) -> list[ImageTokens]:
        """`encode` for each of several wanted errors; the base's encoding is computed once."""
        seen = self.see(images, noise)
        return [self._encode(seen, num_tokens, error) for error in errors]

    def _encode(self, seen: Seen, num_tokens: int | None, max_error: float | Tensor | None) -> ImageTokens:
        length = self.config.num_tokens if num_tokens is None else num_tokens
        if not 1 <= length <= self.config.max_latents:
            raise InputError(f"num_tokens={num_tokens}: this KARLTokenizer has {self.config.max_latents}")
        fixed = num_tokens is not None and max_error is None
        default = 0.0 if fixed else self.config.default_error
        errors = _wanted(default if max_error is None else max_error, seen.tokens)
        out = self.tokenize(seen, self.wanted_bins(errors), length)
        mask = torch.ones_like(out.active) if fixed else out.active
        if out.quantization is None:
            return ImageTokens(Sequence1D(length), latents=out.codes, mask=mask)
        return ImageTokens(Sequence1D(length), ids=out.quantization.ids, mask=mask)

    @torch.no_grad()
    def decode(
        self,
        tokens: ImageTokens,
        *,
        sampling: object = None,
        noise: Noise | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """Images (B, 3, h·f, w·f), unclamped, from the active tokens alone.

        Args:
            tokens: of `encode`; what halted positions hold does not matter.
            grid: (h, w) in patches of f pixels, of images that are not square; tokens do not tell.

        Raises:
            InputError: tokens of another kind.
        """
        grid = (self.config.image_size // self.base_tokenizer.downsampling,) * 2 if grid is None else grid
        return self.base_tokenizer.decode(self.predict(self.embed_tokens(tokens), grid, tokens.mask), grid)

    def embed_tokens(self, tokens: ImageTokens) -> Tensor:
        """Codes (B, T, D) of tokens.

        Raises:
            InputError: another layout or kind, more tokens than latents, or active ids beyond the codebook.
        """
        if not isinstance(tokens.layout, Sequence1D) or tokens.layout.n > self.config.max_latents:
            raise InputError(f"KARLTokenizer decodes a Sequence1D of up to {self.config.max_latents} tokens")
        if self.vq is None:
            if tokens.latents is None or tokens.latents.shape[-1] != self.config.code_dim:
                raise InputError(f"this KARLTokenizer decodes latents (B, T, {self.config.code_dim})")
            return tokens.latents
        if tokens.ids is None or tokens.ids.ndim != 2:
            raise InputError("this KARLTokenizer decodes ids (B, T)")
        ids = tokens.ids if tokens.mask is None else tokens.ids.masked_fill(~tokens.mask, 0)
        check_ids(ids, self.config.codebook_size)
        return self.vq.embed(ids)


def _wanted(errors: float | Tensor, like: Tensor) -> Tensor:
    """Wanted errors (B,), checked."""
    wanted = torch.as_tensor(errors, dtype=torch.float32, device=like.device)
    if wanted.ndim > 1 or (wanted.ndim == 1 and len(wanted) != len(like)):
        raise InputError(f"max_error of shape {tuple(wanted.shape)} must be one number, or one per image")
    if not bool((torch.isfinite(wanted) & (wanted >= 0)).all()):
        raise InputError(
            f"max_error={shown(errors)} must be 0 or more (mean absolute error of [0, 1] pixels)"
        )
    return wanted.expand(len(like))


def _check_bins(error_bins: Sequence[float], bin_errors: Sequence[float] | None) -> None:
    ascending = all(a < b for a, b in pairwise(error_bins))
    if not error_bins or error_bins[0] < 0 or not ascending:
        raise InputError(f"error_bins={shown(list(error_bins))} must be ascending errors, 0 or more")
    if bin_errors is None:
        return
    if len(bin_errors) != len(error_bins) or sorted(bin_errors) != list(bin_errors):
        raise InputError("bin_errors must hold an error per bin of error_bins, not descending")
