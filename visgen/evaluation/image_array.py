"""`.npz` files of images, the layout of ADM's samples: read and written image by image, never held whole."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.evaluation.files import write_once

IMAGES, LABELS = "arr_0", "arr_1"
_BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)
PathLike = str | os.PathLike[str]


class ImageArray:
    """The images `arr_0` of a `.npz`, uint8 (N, H, W, 3).

    Attributes:
        shape: (N, H, W, 3).

    Raises:
        InputError: no such file, or one that holds something else.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        shape = image_shape(self.path)
        if shape is None or 0 in shape:
            raise InputError(f"{str(path)!r} holds no images: {IMAGES} must be uint8 (N, H, W, 3)")
        self.shape = shape
        self._file = zipfile.ZipFile(self.path).open(f"{IMAGES}.npy")  # noqa: SIM115  (open as long as this)
        _read_header(self._file)
        self._start, self._bytes = self._file.tell(), int(np.prod(shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, indices: Sequence[int]) -> Tensor:
        """uint8 (B, 3, H, W); quickest in rising order, in which nothing is read twice."""
        rows = [self._row(i) for i in indices]
        return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()

    def _row(self, index: int) -> np.ndarray:
        try:
            self._file.seek(self._start + index * self._bytes)
            content = self._file.read(self._bytes)
            return np.frombuffer(content, np.uint8).reshape(self.shape[1:])
        except _BROKEN as error:
            raise InputError(
                f"{str(self.path)!r} is broken at image {index} ({error}); fetch it anew"
            ) from error


def image_shape(path: PathLike) -> tuple[int, int, int, int] | None:
    """(N, H, W, 3) of the images in a `.npz`; None where `arr_0` is missing or something else.

    Raises:
        InputError: no readable `.npz`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{IMAGES}.npy" not in archive.namelist():
                return None
            with archive.open(f"{IMAGES}.npy") as file:
                shape, fortran, dtype = _read_header(file)
    except _BROKEN as error:
        raise InputError(f"{str(path)!r} is no readable .npz ({error})") from error
    images = len(shape) == 4 and shape[3] == 3 and dtype == np.uint8 and not fortran
    return shape if images else None  # type: ignore[return-value]  # four, as was checked


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return readers[np.lib.format.read_magic(file)](file)


def write_image_array(
    path: PathLike, images: Iterable[np.ndarray], shape: tuple[int, ...], labels: Sequence[int] | None = None
) -> None:
    """Write a `.npz` with `arr_0`, and `arr_1` int64 (N,) where there are labels, in one step.

    Args:
        path: a new file.
        images: N arrays uint8 (H, W, 3), taken one by one.
        shape: (N, H, W, 3).
        labels: classes of the images.

    Raises:
        InputError: the file exists, the place cannot be written, or an image of another shape.
    """

    def fill(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as member:
                _write_images(member, images, shape)
            if labels is not None:
                with archive.open(f"{LABELS}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(labels, np.int64), allow_pickle=False)

    write_once(path, fill)


def _write_images(member: Any, images: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    count = 0
    for image in images:
        if image.shape != shape[1:] or image.dtype != np.uint8:
            raise InputError(f"image {count} is {image.dtype} {image.shape}; {shape[1:]} of uint8 is wanted")
        member.write(np.ascontiguousarray(image).tobytes())
        count += 1
    if count != shape[0]:
        raise InputError(f"{count} images came where {shape[0]} are wanted")
