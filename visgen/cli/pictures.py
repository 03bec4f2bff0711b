"""From what a pipeline returns to PNG files that say how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import visgen
from visgen.cli.console import say
from visgen.errors import InputError

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

    facts = image_facts(result)
    if len(paths) == 1 and len(images) > 1:
        images, facts = [image_grid(images, columns)], [_merged(facts)]
    else:
        facts = [_merged([one]) for one in facts]
    for image, path, about in zip(images, paths, facts, strict=True):
        write_png(image, path, about | _origin(model, result))
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


def image_facts(result: ImageOutput) -> list[dict[str, Any]]:
    """What each image shows and what was drawn for it: prompt or label, seed and ordinal, where there are
    any."""
    count = len(result)
    seeds = [seed or (None, None) for seed in result.seeds] or [(None, None)] * count
    columns: dict[str, Sequence[Any]] = {
        "prompt": result.prompts or [None] * count,
        "label": result.labels or [None] * count,
        "seed": [seed for seed, _ in seeds],
        "ordinal": [ordinal for _, ordinal in seeds],
    }
    rows = zip(*columns.values(), strict=True)
    return [{name: v for name, v in zip(columns, row, strict=True) if v is not None} for row in rows]


def _merged(facts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Text chunks of a picture of several images: a JSON list where they differ, one value where they
    agree."""
    return {name: _one_or_all([str(fact.get(name)) for fact in facts]) for name in facts[0]}


def _one_or_all(texts: list[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else json.dumps(texts, ensure_ascii=False)


def _origin(model: str, result: ImageOutput) -> dict[str, str]:
    settings = json.dumps(result.settings, default=str, ensure_ascii=False, sort_keys=True)
    return {"model": model, "settings": settings, "visgen": visgen.__version__}
