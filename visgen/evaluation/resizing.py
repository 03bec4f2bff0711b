"""The two ways to bring images to the 299 pixels of Inception. They are what FIDs differ by most."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

INCEPTION_SIZE = 299


def tensorflow1_bilinear(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → float32 (B, 3, 299, 299) in [0, 255], as TensorFlow 1 did: no half-pixel centres,
    no antialiasing."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    size = (INCEPTION_SIZE, INCEPTION_SIZE)
    return interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=size, align_corners=False)


def pillow_bicubic(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → float32 (B, 3, 299, 299) in [0, 255], as clean-fid does: Pillow's antialiased
    bicubic filter on each channel in float, without rounding."""
    resized = [[_resize_channel(channel) for channel in image] for image in images.cpu().numpy()]
    return torch.from_numpy(np.array(resized)).clamp_(0, 255).to(images.device)


def _resize_channel(channel: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(channel.astype(np.float32))  # mode F
    return np.asarray(picture.resize((INCEPTION_SIZE, INCEPTION_SIZE), Image.Resampling.BICUBIC))


RESIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "tensorflow1-bilinear": tensorflow1_bilinear,
    "pillow-bicubic": pillow_bicubic,
}
