"""Ways to bring images to another size. They are what FIDs differ by most."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
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


def pillow_bicubic_bytes(images: Tensor, size: int) -> Tensor:
    """uint8 (B, 3, H, W) → float32 (B, 3, size, size) in [0, 255], whole numbers: Pillow's antialiased
    bicubic filter on bytes, as torchvision's `Resize` of a Pillow image."""
    rows = images.permute(0, 2, 3, 1).cpu().numpy()
    made = [Image.fromarray(row).resize((size, size), Image.Resampling.BICUBIC) for row in rows]
    return torch.from_numpy(np.stack([np.asarray(one) for one in made])).permute(0, 3, 1, 2).float()


def torch_bicubic(images: Tensor, size: int) -> Tensor:
    """uint8 (B, 3, H, W) → float32 (B, 3, size, size) in about [0, 255], not clamped: bicubic, a = -0.75,
    without antialiasing."""
    return F.interpolate(images.float(), size=(size, size), mode="bicubic", align_corners=False)


def to_size(images: Tensor, size: int) -> Tensor:
    """uint8 (B, 3, H, W) → uint8 (B, 3, size, size): `torch_bicubic`, clamped and rounded; images of that
    size come back as they are."""
    if images.shape[-2:] == (size, size):
        return images
    return torch_bicubic(images, size).clamp(0, 255).round().to(torch.uint8)


RESIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "tensorflow1-bilinear": tensorflow1_bilinear,
    "pillow-bicubic": pillow_bicubic,
}
