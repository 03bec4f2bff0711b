"""From what a pipeline returns to PNG files that say how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visgen.cli.console import say
from visgen.errors import InputError
from visgen.pipelines.metadata import image_facts, text_chunks

if TYPE_CHECKING:
    from PIL.Image import Image

    from visgen.pipelines.output import ImageOutput, StepState


def save_pictures(
    images: Sequence[Image],
    result: ImageOutput,
    paths: Sequence[Path],
    model: str,
    columns: int | None = None,
) -> None:
    """Write one PNG per path and print the paths; all images share one grid when there is only one path.

    Args:
        images: one per image of `result`.
        result: where the metadata comes from.
        paths: as many as images, or one.
        model: name the model was loaded by.
        columns: of the grid; None makes it about square.
    """
    from visgen.data.images import image_grid, write_png

    facts = [[one] for one in image_facts(result)]
    if len(paths) == 1 and len(images) > 1:
        images, facts = [image_grid(images, columns)], [image_facts(result)]
    for image, path, about in zip(images, paths, facts, strict=True):
        write_png(image, path, text_chunks(about, model, result.settings))
        say(str(path))


def strip(steps: Sequence[Image]) -> Image:
    """The images after each scale, side by side."""
    from visgen.data.images import image_grid

    return image_grid(steps, columns=len(steps))


class Steps:
    """A step callback that keeps the image so far of every row."""

    def __init__(self) -> None:
        self._images: dict[int, list[Image]] = {}

    def __call__(self, pipe: Any, step: int, total: int, state: StepState) -> None:
        for row, image in zip(state.rows, state.images(), strict=False):  # a model may have no image so far
            self._images.setdefault(row, []).append(image)

    def strips(self, count: int) -> list[Image]:
        """The strip of each of `count` rows.

        Raises:
            InputError: the model has no image before its last step.
        """
        if len(self._images) < count:
            raise InputError("--progressive: this model has no image before its last step")
        return [strip(self._images[row]) for row in range(count)]
