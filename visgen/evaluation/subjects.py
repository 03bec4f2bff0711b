"""What is judged: a model that draws and reconstructs, or a folder of images made elsewhere. All by index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import visgen
from visgen.checkpoints.catalogue import CATALOGUE
from visgen.data.images import read_image
from visgen.data.listing import list_images
from visgen.errors import InputError, shown
from visgen.evaluation.image_array import ImageArray
from visgen.evaluation.labels import published_labels
from visgen.evaluation.metrics import RECONSTRUCTION, listed
from visgen.pipelines.answer_models import find_answer_model
from visgen.pipelines.fingerprint import weights_digest
from visgen.pipelines.flow_decoding import decoding_request, length_facts
from visgen.pipelines.folder import FolderResult, generate_folder
from visgen.pipelines.interleaved import InterleavedPipeline
from visgen.pipelines.model_index import INDEX_NAME
from visgen.pipelines.official import find_official
from visgen.pipelines.options import override
from visgen.pipelines.output import ImageOutput
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.seed_llama import find_seed_llama
from visgen.pipelines.strategies import strategy_facts, strategy_request
from visgen.pipelines.transformers_models import find_transformers
from visgen.shipped import shipped_models
from visgen.tokenizers.tokens import ImageTokens

Captions = Callable[[Sequence[int]], Sequence[str]]


class Subject(ABC):
    """Images to judge.

    Attributes:
        name: as it was given.
        kind: "text", "class", "tokenizer" (it only reconstructs) or "folder".
        image_size: side in pixels of its images.
        length: number of images; None where they never end.
        device, dtype: where and how they are computed; "" for files.
        checkpoint_sha256: digest of the model; None for a folder.
        sampling: resolved sampling options; None where nothing is sampled.
        num_classes: of models of classes; else 0.
        labels: class of image i, for models of classes; None = i mod their number.
        last: what the pipeline said of the last images it generated, their tokens and `stats` among it; None
            for files, and before the first.
        decoder_steps: evaluations of a decoder that starts from noise, for an image; 0 of other decoders.
    """

    name: str
    kind: str
    image_size: int
    length: int | None = None
    device: str = ""
    dtype: str = ""
    checkpoint_sha256: str | None = None
    sampling: dict[str, Any] | None = None
    num_classes: int = 0
    labels: list[int] | None = None
    last: ImageOutput | None = None
    decoder_steps: int = 0

    @abstractmethod
    def generate(self, indices: Sequence[int], captions: Captions, seed: int) -> Tensor:
        """uint8 images (B, 3, H, W); image i is drawn from (seed, i), whatever its batch."""

    def choose_labels(self, count: int, seed: int) -> None:
        """From now on show the classes of `published_labels`; nothing changes for what draws no classes."""
        if self.num_classes:
            self.labels = published_labels(self.name, self.num_classes, count, seed)

    def reconstruct(self, images: Tensor) -> tuple[Tensor, ImageTokens]:
        """uint8 images through the tokenizer and back, and their tokens.

        Raises:
            InputError: there is no tokenizer.
        """
        raise InputError(f"{self.name!r} is a folder of images; reconstruction metrics need a model")

    @property
    def codebook_size(self) -> int | None:
        """Number of codes; None without a codebook."""
        return None


class ModelSubject(Subject):
    """Whatever `visgen.load` gives.

    Args:
        name: it was loaded by.
        pipe: the pipeline.
        batch_size: images generated at once.
        strategy: how a next-token model decodes; None = one token after another.
        num_tokens: of each image, generated or reconstructed, for models of 1-D tokens; None = all.
        decoding: keywords of `FlowSampling` for decoders that start from noise; None = the tokenizer's own.
        max_error: of reconstructions, for tokenizers that choose the number of tokens by it; generated images
            do not depend on it. None = the tokenizer's own.
        sampling: options of the pipeline's call for generated images, such as `num_inference_steps`; None =
            the model's own.

    Raises:
        InputError: a strategy, a number of tokens, an error or keywords for a model that takes none.
    """

    def __init__(
        self,
        name: str,
        pipe: Any,
        batch_size: int,
        strategy: str | None = None,
        num_tokens: int | None = None,
        decoding: Mapping[str, Any] | None = None,
        max_error: float | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        pipe.set_progress_bar_config(disable=True)
        kinds = {"TextToImagePipeline": "text", "ClassToImagePipeline": "class"}
        self.name, self.kind = name, kinds.get(type(pipe).__name__, "tokenizer")
        self.num_classes = pipe.num_classes if self.kind == "class" else 0
        self.image_size = pipe.tokenizer.pixel_size
        self.device, self.dtype = str(pipe._execution_device), str(pipe.dtype).removeprefix("torch.")
        self.checkpoint_sha256 = weights_digest(pipe)
        self._pipe, self._batch_size, self._sampling = pipe, batch_size, dict(sampling or {})
        self._reconstruct = ReconstructPipeline.from_pipe(pipe)
        if strategy is not None and self.kind == "tokenizer":
            raise InputError(f"--strategy {shown(strategy)}: {name!r} draws nothing; leave it out")
        if sampling and self.kind == "tokenizer":
            raise InputError(
                f"{name!r} draws nothing, so {shown(dict(sampling))} say nothing; leave them out"
            )
        override(pipe.sampling, **(sampling or {}))  # refuse now what would end the evaluation later
        strategy_request(pipe, strategy, None)
        pipe.tokenizer.check_knobs(num_tokens, max_error)
        if self.kind != "tokenizer":
            pipe.generator.check_num_tokens(num_tokens)
        length = length_facts(num_tokens, decoding_request(pipe.tokenizer, decoding))
        self._decoding = dict(sampling or {}) | strategy_facts(strategy, None) | length
        decoder = self._reconstruct._decoder()
        flow = getattr(decoder, "sampling", None) if decoder.starts_from_noise else None
        if flow is not None:
            self.decoder_steps = length.get("decoding", asdict(flow))["num_inference_steps"]
        self._knobs = length | ({} if max_error is None else {"max_error": max_error})

    def draw_into(self, folder: Path, rows: Sequence[str | int], **options: Any) -> FolderResult:
        """Draw prompts or labels into a folder, as `generate_folder` does; it takes the other options."""
        self.sampling = asdict(override(self._pipe.sampling, **self._sampling))
        return generate_folder(self._pipe, list(rows), folder, **options, **self._decoding)

    def generate(self, indices: Sequence[int], captions: Captions, seed: int) -> Tensor:
        """Images of the captions of these indices, or of the classes i mod their number."""
        if self.kind == "tokenizer":
            raise InputError(f"{self.name!r} only reconstructs; ask for {listed(RECONSTRUCTION, 'or')}")
        subjects = self._classes(indices) if self.kind == "class" else list(captions(indices))
        # One shape whatever the count and the number of processes: rounding depends on it, and with rounding,
        # even in float32, about one image in 500.
        made = self._pipe(
            subjects,
            seed=seed,
            ordinals=list(indices),
            batch_size=self._batch_size,
            fixed_batch=True,
            **self._decoding,
        )
        self.sampling, self.last = made.settings["sampling"], made
        return stack(made.images)

    def _classes(self, indices: Sequence[int]) -> list[int]:
        """The classes of images: those chosen, or i mod their number."""
        if self.labels is not None:
            return [self.labels[i] for i in indices]
        return [i % self.num_classes for i in indices]

    def reconstruct(self, images: Tensor) -> tuple[Tensor, ImageTokens]:
        """The tokenizer's images, (B, 3, s, s), and their tokens."""
        made = self._reconstruct(list(images), **self._knobs)
        return stack(made.images), made.tokens

    @property
    def codebook_size(self) -> int | None:
        """Number of codes; None for continuous tokens."""
        codebook = self._pipe.tokenizer.codebook
        return None if codebook is None else len(codebook)


class FolderSubject(Subject):
    """The images below a folder in the order of their sorted paths, all squares of one size, unchanged."""

    kind = "folder"

    def __init__(self, name: str) -> None:
        self.name, self._root = name, Path(name)
        self._files = list_images(self._root)
        self.length = len(self._files)
        self.image_size = read_image(self._root / self._files[0]).width

    def generate(self, indices: Sequence[int], captions: Captions, seed: int) -> Tensor:
        """The files of these indices."""
        return stack([self._read(self._files[i]) for i in indices])

    def _read(self, file: str) -> Image.Image:
        picture, size = read_image(self._root / file), self.image_size
        if picture.size != (size, size):
            width, height = picture.size
            raise InputError(
                f"image {file!r} in {self.name!r} is {width}×{height}; all must be squares of one size, and "
                f"the first is {size} wide"
            )
        return picture


class ArraySubject(Subject):
    """The images `arr_0` of a `.npz`, uint8 (N, s, s, 3), unchanged."""

    kind = "folder"

    def __init__(self, name: str) -> None:
        self.name, self._array = name, ImageArray(name)
        self.length, height, self.image_size, _ = self._array.shape
        if height != self.image_size:
            raise InputError(f"images in {name!r} are {self.image_size}×{height}; all must be squares")

    def generate(self, indices: Sequence[int], captions: Captions, seed: int) -> Tensor:
        """The images of these indices."""
        return self._array.read(indices)


def stack(pictures: Sequence[Image.Image]) -> Tensor:
    """Pillow images of one size as uint8 (B, 3, H, W)."""
    return torch.from_numpy(np.stack([np.asarray(one) for one in pictures])).permute(0, 3, 1, 2).contiguous()


def is_image_folder(name: str) -> bool:
    """Whether a name is a folder and no model."""
    path = Path(name)
    if name in shipped_models() or name in CATALOGUE or not path.is_dir() or (path / INDEX_NAME).is_file():
        return False
    finders = (find_transformers, find_seed_llama, find_answer_model, find_official)
    return all(find(path) is None for find in finders)


def open_subject(
    name: str,
    batch_size: int,
    dtype: str | None = None,
    device: str | None = None,
    offline: bool = False,
    strategy: str | None = None,
    num_tokens: int | None = None,
    decoding: Mapping[str, Any] | None = None,
    max_error: float | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> Subject:
    """The subject of a name: a model as for `visgen.load`, or a folder or a `.npz` of images.

    Raises:
        InputError: neither, or options of tokens and decoding for what has none.
    """
    images = Path(name).suffix == ".npz" and Path(name).is_file()
    if images or is_image_folder(name):
        what = "a .npz" if images else "a folder"
        lengths = {"--num-tokens": num_tokens, "--max-error": max_error}
        asked = {"--strategy": strategy, **lengths, "--decode-…": decoding}
        asked |= {f"sampling option {name}": value for name, value in (sampling or {}).items()}
        for option, value in asked.items():
            if value is not None:
                raise InputError(f"{option} {shown(value)}: {name!r} is {what} of images; leave it out")
        return ArraySubject(name) if images else FolderSubject(name)
    pipe = visgen.load(name, dtype=dtype, device=device, local_files_only=offline)
    if isinstance(pipe, InterleavedPipeline):
        pipe = pipe.drawer()
    return ModelSubject(name, pipe, batch_size, strategy, num_tokens, decoding, max_error, sampling)
