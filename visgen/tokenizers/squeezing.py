"""Images of any shape squeezed to one square, their aspect ratio lost: how CLIP-like tokenizers see them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from visgen.data.images import to_rgb, to_tensor

Resample = Literal["bicubic", "bilinear"]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def squeeze(images: Any, size: int, resample: Resample) -> Tensor:
    """Images (B, 3, size, size) in [-1, 1], float32.

    Args:
        images: a Pillow image, an array (uint8, or float in [0, 1]), a tensor in [-1, 1], a batch of either,
            or a list of such of any sizes. Pillow images are resized by Pillow, others by torch with the same
            filter, antialiased.
        size: side in pixels.
        resample: the filter.

    Raises:
        InputError: no image.
    """
    if isinstance(images, (list, tuple)) and images:
        return torch.cat([squeeze(one, size, resample) for one in images])
    if isinstance(images, Image.Image):
        small = to_rgb(images).resize((size, size), FILTERS[resample])
        return to_tensor(np.asarray(small))
    pixels = to_tensor(images)
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels, (size, size), mode=resample, antialias=True, align_corners=False)
