"""`export`: a model's images for an official judge, and their scores here where some are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from visgen.errors import InputError
from visgen.evaluation.exports import LAYOUTS
from visgen.evaluation.exports.drawn import DrawnSubject, Progress
from visgen.evaluation.exports.layout import Layout, LayoutRequest
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.records import Record
from visgen.evaluation.run import evaluate, open_named
from visgen.evaluation.subjects import ModelSubject
from visgen.pipelines.locked_folder import LockedFolder
from visgen.processes import Processes

IMAGES = "images"


@dataclass(frozen=True)
class ExportOptions:
    """What is exported.

    Attributes:
        layout: a name of `LAYOUTS`.
        folder: where; `images` below it holds the pictures one by one.
        prompts: file or folder of prompts, as the layout wants them.
        per_prompt: images of each prompt; None = as the judge wants them.
    """

    layout: str
    folder: Path
    prompts: Path | None = None
    per_prompt: int | None = None


class ExportFolder(LockedFolder):
    """The folder while pictures are laid out in it."""

    lock_name = ".export.lock"


@dataclass(frozen=True)
class Exported:
    """What an export left.

    Attributes:
        place: what the judge is given.
        judge: which one, in words.
        total: images.
        made: those that this run drew.
        records: scores; none unless some were asked for.
    """

    place: Path
    judge: str
    total: int
    made: int
    records: tuple[Record, ...] = ()


def export(
    name: str,
    asked: ExportOptions,
    options: EvaluationOptions,
    *,
    on_progress: Progress | None = None,
) -> Exported:
    """Draw what a layout wants into a folder, lay it out, and score it where `options` say how.

    The same call again makes what is missing. Images are those of `generate_folder` for the same rows and
    seed. They are scored where `options` name metrics, a protocol or a reference.

    Args:
        name: of a model that draws prompts or classes.
        asked: the export.
        options: how the model draws and is judged; `prompts` are replaced by those of the export.
        on_progress: called with (images there, images in all).

    Raises:
        InputError: anything that cannot be drawn, judged or written, before images are drawn where possible.
    """
    processes = Processes()
    if processes.count > 1:
        raise InputError(
            "--export fills one folder from one process; start it without accelerate or torchrun"
        )
    model = open_named(name, options)
    if not isinstance(model, ModelSubject) or model.kind == "tokenizer":
        raise InputError(
            f"--export {asked.layout}: {name!r} draws nothing; give a model of prompts or classes"
        )
    layout: Layout = LAYOUTS.load(asked.layout)(
        LayoutRequest(model, options, asked.prompts, asked.per_prompt)
    )
    images = asked.folder / IMAGES
    options = _whole(options, layout)
    drawn = DrawnSubject(
        model, layout.rows, layout.per_row, images, options.seed, options.batch_size, on_progress
    )
    records: list[Record] = []
    if options.metrics or options.protocol or options.reference:
        records = evaluate([drawn], options, processes=processes)
    result = drawn.draw()
    place = asked.folder / layout.place
    with ExportFolder(asked.folder):
        layout.arrange(place, drawn.picture)
    return Exported(place, layout.judge, result.total, result.made, tuple(records))


def _whole(options: EvaluationOptions, layout: Layout) -> EvaluationOptions:
    """Options under which all images of an export are judged, beside the prompts that they show."""
    total = len(layout.rows) * layout.per_row
    if options.count not in (None, total):
        raise InputError(f"-n {options.count}: this export is of {total:,} images; leave -n out")
    prompts = tuple(str(row) for row in layout.rows for _ in range(layout.per_row)) if layout.told else None
    return replace(options, count=total, prompts=prompts)
