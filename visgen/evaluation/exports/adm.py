"""ADM's samples: one `.npz` with `arr_0` uint8 (N, H, W, 3), and `arr_1` int64 (N,) for models of classes.

The judge is `evaluations/evaluator.py REFERENCE.npz SAMPLES.npz` of github.com/openai/guided-diffusion.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from visgen.errors import InputError
from visgen.evaluation.exports.layout import Layout, LayoutRequest, PictureAt, read_png
from visgen.evaluation.image_array import ImageArray, write_image_array
from visgen.evaluation.labels import published_labels
from visgen.evaluation.options import read_prompts
from visgen.evaluation.protocols import SampledProtocol
from visgen.evaluation.references import open_reference
from visgen.evaluation.resizing import to_size
from visgen.evaluation.subjects import stack

COUNT = 50_000


class AdmLayout(Layout):
    """All images in one array, at the size at which they are judged."""

    place, judge = "adm.npz", "evaluations/evaluator.py of guided-diffusion"

    def __init__(self, rows: list[str] | list[int], per_row: int, size: int, told: bool) -> None:
        self.rows, self.per_row, self.told, self._size = rows, per_row, told, size
        classes = [row for row in rows if isinstance(row, int) for _ in range(per_row)]
        self._labels = classes or None

    def arrange(self, target: Path, picture: PictureAt) -> None:
        """Images one after another, row by row; a file that is there is compared with them."""
        count = len(self.rows) * self.per_row
        if target.exists():
            self._compare(target, picture, count)
        else:
            shape = (count, self._size, self._size, 3)
            write_image_array(target, self._arrays(picture), shape, self._labels)

    def _arrays(self, picture: PictureAt) -> Iterator[np.ndarray]:
        for row in range(len(self.rows)):
            for j in range(self.per_row):
                image = to_size(stack([read_png(picture(row, j))]), self._size)
                yield image[0].permute(1, 2, 0).contiguous().numpy()

    def _compare(self, target: Path, picture: PictureAt, count: int) -> None:
        there = ImageArray(target)
        same = there.shape == (count, self._size, self._size, 3) and all(
            np.array_equal(there.read([i])[0].permute(1, 2, 0), one)
            for i, one in enumerate(self._arrays(picture))
        )
        if not same:
            raise InputError(f"{str(target)!r} holds other images than this export draws; move it away")


def adm_layout(request: LayoutRequest) -> AdmLayout:
    """The layout of `--export adm`: as many images as asked for, 50,000 if nothing is said.

    Models of classes draw those of the protocol, or class after class; models of text draw the prompts of the
    file, or the reference's captions.

    Raises:
        InputError: prompts for classes, or several images of captions that come from no file.
    """
    subject, options = request.subject, request.options
    protocol = options.resolve_protocol()
    size = protocol.size_of(subject.image_size)
    if subject.kind == "class":
        if request.prompts is not None or request.per_prompt is not None:
            raise InputError(
                f"--prompts and --images-per-prompt are for prompts; {subject.name!r} draws classes"
            )
        count = options.count or COUNT
        if isinstance(protocol, SampledProtocol):
            labels = published_labels(subject.name, subject.num_classes, count, options.seed)
        else:
            labels = [i % subject.num_classes for i in range(count)]
        return AdmLayout(labels, 1, size, told=False)
    per_prompt = request.per_prompt or 1
    if request.prompts is not None:
        return AdmLayout(list(read_prompts(request.prompts)), per_prompt, size, told=True)
    if per_prompt > 1:
        raise InputError(
            f"--images-per-prompt {per_prompt} needs --prompts FILE: captions are drawn once each"
        )
    reference = open_reference(options.reference_name)
    count = min(options.count or COUNT, reference.length or COUNT)
    return AdmLayout(reference.captions(range(count)), 1, size, told=False)
