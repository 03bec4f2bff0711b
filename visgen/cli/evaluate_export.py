"""`visgen evaluate --export`: images in the layout of an official judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visgen.cli.console import say
from visgen.cli.progress import resumable_bar
from visgen.errors import InputError, shown
from visgen.evaluation.exports import LAYOUTS

if TYPE_CHECKING:
    from visgen.evaluation.exports.run import ExportOptions
    from visgen.evaluation.options import EvaluationOptions
    from visgen.evaluation.records import Record

SCORES = "scores.json"
FILES = (".json", ".npz", ".png")  # a folder may well be called janus-1.3b


def export_options(
    layout: str | None, folder: Path | None, prompts: Path | None, per_prompt: int | None
) -> ExportOptions | None:
    """What the command line asks for; None where it asks for no export.

    Raises:
        InputError: an unknown layout, no folder, or options of an export without one.
    """
    from visgen.evaluation.exports.run import ExportOptions

    if layout is None:
        if per_prompt is not None:
            raise InputError(f"--images-per-prompt {per_prompt} is of an export; add --export geneval")
        return None
    LAYOUTS.load(layout)  # refuses an unknown name
    if folder is None or folder.suffix in FILES or (folder.exists() and not folder.is_dir()):
        given = "" if folder is None else f", not {shown(str(folder))}"
        raise InputError(f"--export {layout} needs a folder: -o DIR{given}")
    return ExportOptions(layout, folder, prompts, per_prompt)


def export_images(
    names: Sequence[str], asked: ExportOptions, options: EvaluationOptions, others: Mapping[str, Any]
) -> list[Record]:
    """Draw, lay out and perhaps score; the records, which are written beside the images.

    Raises:
        InputError: several models, or options that have no meaning for an export.
    """
    from visgen.evaluation.exports.run import export
    from visgen.evaluation.files import check_new
    from visgen.evaluation.records import write_results

    for option, value in others.items():
        if value:
            raise InputError(f"{option} {shown(str(value))} has no meaning for --export; leave it out")
    if len(names) != 1:
        raise InputError(f"--export {asked.layout} is of one model, not of {len(names)}; run it for each")
    scores = asked.folder / SCORES
    if options.metrics or options.protocol or options.reference:
        check_new(scores, "the file of scores")
    with resumable_bar(asked.folder) as show:
        done = export(names[0], asked, replace(options, prompts=None), on_progress=show)
    if done.records:
        write_results(scores, done.records)  # last: where it is, all else is
    say(f"{done.place}: {done.total} images, {done.made} of them new, for {done.judge}")
    return list(done.records)
