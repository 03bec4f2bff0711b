"""Images as callers give them: one or many, Pillow, arrays or tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from visgen.errors import InputError


def as_image_list(images: Any, name: str = "image") -> list[Any]:
    """Single images: lists are flattened, batches (B, …) taken apart.

    Raises:
        InputError: no image at all, or something that is none.
    """
    if isinstance(images, (list, tuple)):
        out = [one for entry in images for one in as_image_list(entry, name)]
    elif isinstance(images, (np.ndarray, Tensor)):
        out = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, Image.Image):
        out = [images]
    else:
        kind = type(images).__name__
        raise InputError(
            f"{name} of type {kind} must be a Pillow image, an array, a tensor, or a list of those"
        )
    if not out:
        raise InputError(f"{name} is an empty list; give at least one image")
    return out


def image_size(image: Any) -> tuple[int, int]:
    """(width, height) of a Pillow image, an array (H, W[, 3]) or a tensor (3, H, W)."""
    if isinstance(image, Image.Image):
        return image.size
    shape: Sequence[int] = image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2]
    return int(shape[1]), int(shape[0])
