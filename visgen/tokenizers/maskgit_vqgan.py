"""MaskGIT's VQGAN (arXiv 2202.04200) in the layout of `bytedance/1d-tokenizer`: the tokenizer of RAR, and
what TiTok's first stage of training predicts the codes of."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from visgen.nn.maskgit_cnn import MaskGITDecoder, MaskGITEncoder
from visgen.nn.quantizers.vq import VectorQuantizer
from visgen.tokenizers.base import check_sides
from visgen.tokenizers.convolutional import TokenizerPass, check_sizes
from visgen.tokenizers.grid import CodeGridTokenizer


class MaskGITTokenizer(CodeGridTokenizer):
    """Convolutional encoder, nearest code per position, convolutional decoder.

    Pixels are [-1, 1] as everywhere; the networks work on [0, 1], as the official ones do. Images of other
    sizes than `image_size` encode and decode too; tokens carry their grid.

    Args:
        image_size: side in pixels of the images it is used for.
        codebook_size, code_dim: V codes of C channels.
        beta: weight of the commitment term in training.
        ch, ch_mult, num_res_blocks: size of the CNN (official: 128, (1, 1, 2, 2, 4), 2).

    Raises:
        InputError: sizes below 1.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        codebook_size: int = 1024,
        code_dim: int = 256,
        beta: float = 0.25,
        ch: int = 128,
        ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
    ) -> None:
        super().__init__()
        self._init_tuples()
        check_sizes(image_size=image_size, codebook_size=codebook_size, code_dim=code_dim, ch=ch)
        check_sizes(ch_mult=ch_mult, num_res_blocks=num_res_blocks)
        sizes = (ch, tuple(ch_mult), num_res_blocks, code_dim)
        self.encoder = MaskGITEncoder(3, *sizes)
        self.decoder = MaskGITDecoder(3, *sizes)
        self.vq = VectorQuantizer(codebook_size, code_dim, normalize=False, beta=beta)

    @property
    def codebook(self) -> Tensor:
        return self.vq.codes

    def features(self, images: Tensor) -> Tensor:
        """Features (B, C, H/f, W/f) in front of the quantizer, float32.

        Raises:
            InputError: sides that are no multiples of the downsampling.
        """
        check_sides(images, self.downsampling)
        return self.encoder((images.to(self.dtype) + 1) / 2).float()

    @torch.no_grad()
    def decode_latents(self, fhat_BCHW: Tensor) -> Tensor:
        """Images of codes, unclamped."""
        return self.decode_features(fhat_BCHW)

    def decode_features(self, fhat_BCHW: Tensor) -> Tensor:
        """The same with gradients."""
        return 2 * self.decoder(fhat_BCHW.to(self.dtype)) - 1

    def forward(self, images: Tensor) -> TokenizerPass:
        """Training pass, straight through the quantizer."""
        f = self.features(images)
        out = self.vq(f)
        return TokenizerPass(self.decode_features(f + (out.fhat - f).detach()), out)
