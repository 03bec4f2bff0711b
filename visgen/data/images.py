"""Reading and writing images, and the one conversion between pictures and tensors in [-1, 1]."""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from visgen.data.files import replacing
from visgen.errors import InputError, shown

PathLike: TypeAlias = str | os.PathLike[str]
ImageInput: TypeAlias = "Image.Image | np.ndarray | torch.Tensor | Sequence[ImageInput]"

# What is read. Pillow knows dozens more, and some of them start other programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
LONGEST = 32  # times the shorter side: resizing 20,000 × 1 pixels as a whole would fill the memory

# What Pillow raises on broken files, beside OSError.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image(path: PathLike) -> Image.Image:
    """Reads an image as RGB: EXIF orientation applied, transparency laid on white, 16 bits brought to 8.

    Of an animation the first frame is read.

    Raises:
        InputError: no regular file (a pipe or a device would never end), or no image in one of `FORMATS`.
    """
    with _opened(path, FORMATS) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def decode_image(content: bytes, name: str) -> Image.Image:
    """The image in the bytes of a file, read as `read_image` reads one; `name` is for messages.

    Raises:
        InputError: no image in one of `FORMATS`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except InputError as error:
        raise InputError(f"image {shown(name)}: {error}") from error
    except _BROKEN as error:
        raise InputError(f"image {shown(name)} cannot be read ({error}); take it out of the data.") from error


@contextmanager
def _opened(path: PathLike, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """An image file of one of some formats; whatever is wrong with it is an `InputError`."""
    name, wanted = shown(os.fspath(path)), " or ".join(formats[:2])
    if not os.path.isfile(path):
        what = "is no regular file" if os.path.exists(path) else "does not exist"
        raise InputError(f"image {name} {what}; give the path of a {wanted} file.")
    try:
        with Image.open(path, formats=formats) as image:
            yield image
    except InputError as error:
        raise InputError(f"image {name}: {error}") from error
    except _BROKEN as error:
        raise InputError(f"image {name} cannot be read as a {wanted} file ({error}).") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as RGB, transparency laid on white, 16 bits brought to 8.

    Floats run over [0, 1], or over [0, 255] where one is above 1; `InputError` beyond.
    """
    if image.mode.startswith("I"):
        image = Image.fromarray(np.clip(np.rint(np.asarray(image) / 257.0), 0, 255).astype(np.uint8))
    if image.mode == "F":
        image = _from_float(image)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")  # returns a copy when it is RGB already, so a closed file does no harm


def _from_float(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 255:
        raise InputError(f"floats from {low} to {high} are no picture; scale them to [0, 1] or [0, 255].")
    return Image.fromarray(np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8))


def to_tensor(image: ImageInput) -> torch.Tensor:
    """Brings images to a float32 tensor (B, 3, H, W) in [-1, 1]; a single image gives B = 1.

    Args:
        image: a Pillow image; an array (H, W), (H, W, 3) or (B, H, W, 3); a tensor (3, H, W) or (B, 3, H, W);
            or a sequence of those, all of one size. uint8 runs over [0, 255], a float array over [0, 1] and a
            float tensor over [-1, 1]; the tensor may overshoot, because decoders are not clamped.

    Raises:
        InputError: another type or shape, no pixels, sizes that differ, a float array outside [0, 1], or a
            tensor with NaN or infinity.
    """
    if isinstance(image, (list, tuple)):
        return _stack([to_tensor(one) for one in image])
    if isinstance(image, Image.Image):
        image = np.asarray(to_rgb(image))
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if not isinstance(image, torch.Tensor):
        raise InputError(f"image of type {type(image).__name__} is not a Pillow image, an array or a tensor.")
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[1] != 3:
        raise InputError(f"image tensor of shape {tuple(image.shape)} is not (3, H, W) or (B, 3, H, W).")
    if image.numel() == 0:
        raise InputError(f"image of shape {tuple(image.shape)} has no pixels; give one or more.")
    return _to_unit_range(image)


def _stack(images: list[torch.Tensor]) -> torch.Tensor:
    sizes = sorted({tuple(image.shape[-2:]) for image in images})
    if len(sizes) != 1:
        raise InputError(f"images have the sizes {sizes}; a batch needs an image or more, all of one size.")
    return torch.cat(images)


def _from_array(array: np.ndarray) -> torch.Tensor:
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype.kind not in "buif":
        raise InputError(f"image array of {array.dtype} is neither uint8 in [0, 255] nor floating point.")
    if array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise InputError(f"image array of shape {array.shape} is not (H, W), (H, W, 3) or (B, H, W, 3).")
    if array.dtype.kind == "f":
        if array.size and not (array.min() >= -0.001 and array.max() <= 1.001):
            raise InputError("image array of floats leaves [0, 1]; scale it, or pass uint8 in [0, 255].")
        array = array * 2 - 1
    return torch.from_numpy(np.array(array)).movedim(-1, -3)  # a copy: the array may be read-only


def _to_unit_range(image: torch.Tensor) -> torch.Tensor:
    if image.dtype == torch.uint8:
        return image.to(torch.float32) / 127.5 - 1
    if not image.is_floating_point():
        raise InputError(f"image of dtype {image.dtype} is neither uint8 in [0, 255] nor floating point.")
    if not torch.isfinite(image).all():
        raise InputError("image tensor holds NaN or infinity; give numbers in [-1, 1].")
    return image.to(torch.float32)


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Clamps and rounds a tensor (B, 3, H, W) in [-1, 1] to a uint8 array (B, H, W, 3)."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images of shape {tuple(images.shape)} are not (B, 3, H, W).")
    scaled = (images.detach().to("cpu", torch.float32).clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """A tensor (B, 3, H, W) in [-1, 1] as B Pillow images."""
    return [Image.fromarray(array) for array in to_uint8(images)]


def resize_center_crop(image: Image.Image, size: int) -> Image.Image:
    """Resizes the shorter side to `size` (Lanczos) and crops the centre square."""
    image = resize_shorter_side(image, size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def resize_shorter_side(image: Image.Image, size: int) -> Image.Image:
    """Resizes so that the shorter side is `size` (Lanczos), keeping the proportions.

    Of what is longer than `LONGEST` times its width only the middle is kept.
    """
    width, height = _middle(image.size)
    if (width, height) != image.size:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    new = _shorter_side_to(size, image.size)
    return image if new == image.size else image.resize(new, Image.Resampling.LANCZOS)


def _middle(sides: tuple[int, int]) -> tuple[int, int]:
    first, second = (min(side, LONGEST * min(sides)) for side in sides)
    return first, second


def _shorter_side_to(size: int, sides: tuple[int, int]) -> tuple[int, int]:
    if size < 1:
        raise InputError(f"size={size} is not a size in pixels; use 1 or more.")
    first, second = (max(size, round(side * size / min(sides))) for side in sides)
    return first, second


def prepare_batch(images: ImageInput, size: int) -> torch.Tensor:
    """Brings images of any sizes to a float32 tensor (B, 3, size, size) in [-1, 1].

    The shorter side is resized (Lanczos for Pillow images and arrays, anti-aliased bicubic for tensors, which
    may lie on a device), then the centre is cropped. See `to_tensor` for what is accepted.

    Raises:
        InputError: as `to_tensor`, or `size` below 1.
    """
    if isinstance(images, (list, tuple)):
        return _stack([prepare_batch(one, size) for one in images])
    batch = to_tensor(images)
    if batch.shape[-2:] == (size, size):
        return batch
    if isinstance(images, torch.Tensor):
        return _resize_center_crop_tensor(batch, size)
    return to_tensor([resize_center_crop(image, size) for image in to_pil(batch)])


def _resize_center_crop_tensor(images: torch.Tensor, size: int) -> torch.Tensor:
    height, width = _middle(images.shape[-2:])
    images = _center(images, height, width)
    new = _shorter_side_to(size, images.shape[-2:])
    images = F.interpolate(images, size=new, mode="bicubic", antialias=True)
    return _center(images, size, size)


def _center(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def image_grid(images: Sequence[Image.Image], columns: int | None = None, padding: int = 2) -> Image.Image:
    """Lays images out in rows on white, `padding` pixels apart; about square unless `columns` is given.

    Raises:
        InputError: no images, `columns` below 1, or a negative `padding`.
    """
    if not images or padding < 0 or (columns is not None and columns < 1):
        given = f"{len(images)} images, columns={columns} and padding={padding}"
        raise InputError(f"no grid of {given}; give an image or more, columns from 1 and padding from 0.")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    width, height = (max(image.size[axis] for image in images) + padding for axis in (0, 1))
    grid = Image.new("RGB", (columns * width - padding, rows * height - padding), "white")
    for number, image in enumerate(images):
        grid.paste(to_rgb(image), (number % columns * width, number // columns * height))
    return grid


def write_png(image: Image.Image, path: PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a PNG in one step: a reader sees the old file or the whole new one, never half of it.

    Args:
        image: what to write.
        path: where; missing parent folders are made.
        metadata: text chunks, any Unicode (bytes of a file name that are none become \\udcxx); keys of 1 to
            79 Latin-1 characters.

    Raises:
        InputError: the place cannot be written, or a key is not allowed.
    """
    info = _png_info(metadata or {})
    try:
        with replacing(path) as file:
            image.save(file, format="PNG", pnginfo=info)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(
            f"path {shown(os.fspath(path))} cannot be written ({error}); choose another."
        ) from error


def _png_info(metadata: Mapping[str, str]) -> PngInfo:
    info = PngInfo()
    for key, text in metadata.items():
        if not 1 <= len(key) <= 79 or any(ord(character) > 255 for character in key):
            raise InputError(f"metadata key {key!r} is not 1 to 79 Latin-1 characters, as PNG asks.")
        info.add_text(key, text.encode(errors="backslashreplace").decode())  # iTXt beyond Latin-1
    return info


def read_png_metadata(path: PathLike) -> dict[str, str]:
    """The text chunks of a PNG, empty when there are none.

    Raises:
        InputError: the file is missing or is not a PNG.
    """
    with _opened(path, ("PNG",)) as image:
        return {key: str(text) for key, text in getattr(image, "text", {}).items()}
