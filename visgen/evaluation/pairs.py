"""Scores of reconstructions beside their originals, image by image, on the bytes that a PNG would hold."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from visgen.evaluation.extractors import at_fixed_shape
from visgen.nn.perceptual import PerceptualLoss

CEILING_DB = 100.0  # PSNR of equal images is infinite, which neither means nor JSON can hold
LPIPS_ROWS = 4  # pairs at once, always


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of uint8 images (B, 3, H, W) in dB, (B,); 100 for equal ones."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    values = peak_signal_noise_ratio(
        made.float(), real.float(), data_range=255.0, reduction="none", dim=(1, 2, 3)
    )
    return values.clamp(max=CEILING_DB)


def ssim(made: Tensor, real: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004; Gaussian window of 11) of uint8 images (B, 3, H, W), (B,)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        made.float(), real.float(), data_range=255.0, reduction="none"
    )
    return values.reshape(len(made))


def l1(made: Tensor, real: Tensor) -> Tensor:
    """Mean absolute error of uint8 images (B, 3, H, W) on pixels in [0, 1], float64 (B,).

    In float64 an error of exactly 0.1 is not above 0.1.
    """
    return (made.int() - real.int()).abs().flatten(1).double().mean(1) / 255


class Lpips:
    """LPIPS of uint8 images; weights by path.

    Args:
        weights: torchvision's vgg16 state dict.
        linear: LPIPS v0.1 `vgg.pth`; None weighs all channels by 1.
        device: where to run it.

    Raises:
        InputError: a missing or unfit file.
    """

    def __init__(self, weights: Path | None, linear: Path | None, device: str) -> None:
        self._loss = PerceptualLoss(weights, linear).to(device)
        self._device = device

    @torch.no_grad()
    def __call__(self, made: Tensor, real: Tensor) -> Tensor:
        """Distances of pairs (B, 3, H, W), (B,)."""
        return at_fixed_shape(self._distances, torch.cat([made, real], dim=1), LPIPS_ROWS)

    def _distances(self, pairs: Tensor) -> Tensor:
        made, real = (pairs.to(self._device).float() / 127.5 - 1).split(3, dim=1)
        return self._loss.distances(made, real)
