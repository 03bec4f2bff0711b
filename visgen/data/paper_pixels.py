"""How the papers' scripts crop, round and lay out pictures, where it differs from `visgen.data.images`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from visgen.errors import InputError

# Value y in [-1, 1] → what is clamped to [0, 255] and truncated
ROUNDINGS = {
    "adm": (127.5, 128.0),  # ADM's samplers, LlamaGen: up to half a level brighter than rounding
    "truncate": (127.5, 127.5),  # ELM: half a level darker
    "half_up": (127.5, 128.0),  # torchvision's save_image, which clamps to [-1, 1] first
}


def to_uint8_by(images: Tensor, rounding: str) -> np.ndarray:
    """A tensor (B, 3, H, W), about [-1, 1], as uint8 (B, H, W, 3) by a rule of `ROUNDINGS`.

    Raises:
        InputError: an unknown rule.
    """
    if rounding not in ROUNDINGS:
        raise InputError(f"rounding={rounding!r} must be one of {', '.join(ROUNDINGS)}")
    scale, shift = ROUNDINGS[rounding]
    images = images.detach().to("cpu", torch.float32)
    levels = (images.clamp(-1, 1) if rounding == "half_up" else images) * scale + shift
    return levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def adm_center_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre square of `size` pixels as ADM cuts it: halved by boxes while it is twice too large, then
    bicubic to the shorter side."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    new = (round(image.width * scale), round(image.height * scale))
    image = image.resize(new, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def resize_bicubic(images: Tensor, size: int) -> Tensor:
    """Decoded images (B, 3, H, W) at another size without antialiasing, unclamped: how LlamaGen's models of
    384 pixels are measured at 256."""
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=False)


def padded_grid(images: np.ndarray, columns: int = 4, padding: int = 2) -> np.ndarray:
    """uint8 images (B, H, W, 3) in rows on black with a margin, (H', W', 3), as torchvision lays them out."""
    b, h, w, _ = images.shape
    columns = min(columns, b)
    rows = -(-b // columns)
    grid = np.zeros((rows * (h + padding) + padding, columns * (w + padding) + padding, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        top = number // columns * (h + padding) + padding
        left = number % columns * (w + padding) + padding
        grid[top : top + h, left : left + w] = image
    return grid
