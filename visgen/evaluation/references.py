"""What images are compared with: a split of scenes, a folder of images, or precomputed statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visgen.data.images import read_image, resize_center_crop
from visgen.data.listing import list_images, read_captions
from visgen.data.scenes import IMAGE_SIZE, SPLITS, Scenes
from visgen.data.scenes.scene import Scene
from visgen.errors import InputError
from visgen.evaluation.image_array import ImageArray, image_shape

SCENES = "scenes:"
DEFAULT_REFERENCE = f"{SCENES}validation"
ADM_BATCH = "VIRTUAL_imagenet256_labeled.npz"
ADM_URL = (
    f"https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/{ADM_BATCH}"
)


class Reference(ABC):
    """Real images by index.

    Attributes:
        name: as it was given.
        length: number of images; None where they never end.
    """

    name: str
    length: int | None = None

    @abstractmethod
    def images(self, indices: Sequence[int], size: int) -> Tensor:
        """uint8 (B, 3, size, size); raises `InputError` when there are none of that size."""

    def captions(self, indices: Sequence[int]) -> list[str]:
        """What each image shows; raises `InputError` when that is not known."""
        raise InputError(f"--reference {self.name!r} has no captions to draw; give --prompts FILE")

    def scenes(self, indices: Sequence[int]) -> list[Scene]:
        """Ground truth of each image; raises `InputError` for all but scenes."""
        raise InputError(
            f"metric adherence needs a scenes reference, not {self.name!r}; try scenes:validation"
        )


class ScenesReference(Reference):
    """A split of the scenes world, all kinds of scenes in turn, without end.

    Captions and reconstructions are of the scenes 0 … N − 1; features are compared with those of N … 2N − 1.
    """

    def __init__(self, name: str) -> None:
        split = name.removeprefix(SCENES)
        if split not in SPLITS:
            known = ", ".join(f"{SCENES}{one}" for one in SPLITS)
            raise InputError(f"--reference {name!r} is no split of the scenes; use one of {known}")
        self.name, self._scenes = name, Scenes(split, balanced=True)

    def images(self, indices: Sequence[int], size: int) -> Tensor:
        """Drawn scenes; only 64×64."""
        if size != IMAGE_SIZE:
            raise InputError(
                f"--reference {self.name!r} has {IMAGE_SIZE}×{IMAGE_SIZE} pixels, not {size}×{size}; "
                "give a folder of images, or a .npz"
            )
        return self._scenes.batch(indices).images

    def captions(self, indices: Sequence[int]) -> list[str]:
        """Paraphrased captions."""
        return list(self._scenes.batch(indices).captions or [])

    def scenes(self, indices: Sequence[int]) -> list[Scene]:
        """The scenes themselves."""
        return list(self._scenes.batch(indices).scenes or [])


class FolderReference(Reference):
    """The images below a folder, in the order of their sorted paths: shorter side resized (Lanczos), centre
    cropped."""

    def __init__(self, name: str) -> None:
        self.name, self._root = name, Path(name)
        self._files = list_images(self._root)
        self.length = len(self._files)

    def images(self, indices: Sequence[int], size: int) -> Tensor:
        """Squares of any size."""
        pictures = [resize_center_crop(read_image(self._root / self._files[i]), size) for i in indices]
        return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])

    def captions(self, indices: Sequence[int]) -> list[str]:
        """The first caption of each image; raises `InputError` when the folder has none."""
        return [self._captions[self._files[i]][0] for i in indices]

    @cached_property
    def _captions(self) -> dict[str, list[str]]:
        try:
            return read_captions(self._root, self._files)
        except InputError as error:
            raise InputError(f"{error} Or give --prompts FILE.") from error


class StatisticsReference(Reference):
    """A `.npz` of mean and covariance, without images."""

    def __init__(self, name: str) -> None:
        self.name, self.path = name, Path(name)
        if not self.path.is_file():
            raise InputError(f"--reference {name!r} does not exist; give a .npz with mu and sigma")

    def images(self, indices: Sequence[int], size: int) -> Tensor:
        """Always an `InputError`."""
        raise InputError(f"--reference {self.name!r} holds statistics, not images")


class ArrayReference(Reference):
    """The images `arr_0` of a `.npz`, uint8 (N, H, W, 3), as they are.

    Attributes:
        has_statistics: mean and covariance stand beside them, perhaps of more images: FID takes those. ADM's
            reference batches are so: 10,000 images, and the statistics of the whole training set.
    """

    def __init__(self, name: str) -> None:
        self.name, self.path = name, Path(name)
        self._array = ImageArray(name)
        self.length = len(self._array)
        with np.load(name, allow_pickle=False) as archive:
            self.has_statistics = {"mu", "sigma"} <= set(archive.files)

    def images(self, indices: Sequence[int], size: int) -> Tensor:
        """Only of the size they have."""
        _, height, width, _ = self._array.shape
        if (height, width) != (size, size):
            raise InputError(
                f"--reference {self.name!r} has {width}×{height} pixels, not {size}×{size}; give a folder of "
                "images, or a .npz of that size"
            )
        return self._array.read(indices)


def adm_batch() -> str:
    """Path of ADM's reference batch of ImageNet at 256×256 in torch hub's cache.

    Raises:
        InputError: it is not there.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / ADM_BATCH
    if not path.is_file():
        raise InputError(
            f"protocol adm50k needs ADM's reference batch; fetch {ADM_URL} (2 GB) into {str(path.parent)!r}, "
            "or give --reference PATH"
        )
    return str(path)


def open_reference(name: str) -> Reference:
    """The reference of a name: "scenes:SPLIT", a folder, or a `.npz` of images, of statistics, or of both.

    Raises:
        InputError: none of those, or a folder without images.
    """
    if name.startswith(SCENES):
        return ScenesReference(name)
    if name.endswith(".npz"):
        whole = Path(name).is_file() and image_shape(name) is not None
        return ArrayReference(name) if whole else StatisticsReference(name)
    if Path(name).is_dir():
        return FolderReference(name)
    raise InputError(
        f"--reference {name!r} is no folder; give one of images, a .npz of statistics, or {DEFAULT_REFERENCE}"
    )
