"""VQ tokenizer of one grid of ids (VQGAN; the layout of LlamaGen, arXiv 2406.06525, section 2.1)."""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.nn.quantizers.vq import VectorQuantizer
from visgen.tokenizers.convolutional import ConvTokenizer, build_cnn, check_sizes
from visgen.tokenizers.grid import CodeGridTokenizer


class VQTokenizer(ConvTokenizer, CodeGridTokenizer):
    """Convolutional encoder, nearest code per position, convolutional decoder.

    `ConvTokenizer` has the networks, `CodeGridTokenizer` the tokens. Images of other sizes than `image_size`
    encode and decode too; tokens carry their grid.

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

    def latents(self, images: Tensor) -> Tensor:
        """The feature that is quantised (B, C, H/f, W/f), of unit length where codes are."""
        return self.vq.prepare(self.features(images))
