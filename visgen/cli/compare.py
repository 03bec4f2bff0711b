"""`visgen compare`: models, strategies and tokenizers side by side, and what changed between two studies."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visgen.cli.console import INTERNAL, note, say
from visgen.errors import InputError

if TYPE_CHECKING:
    from visgen.evaluation.studies.running import Outcome


def compare(
    study: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY.yaml [KEY=VALUE …]",
            help="A study, such as recipes/studies/scenes.yaml, and keys to change; with --diff two folders.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder; by default the study's own.")
    ] = None,
    run: Annotated[
        bool,
        typer.Option(
            "--run/--no-run", help="With --no-run: table, plots and report of the cells that are there."
        ),
    ] = True,
    diff: Annotated[
        bool,
        typer.Option("--diff", help="What changed between two folders, and whether by more than chance."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --diff: one line of JSON.")] = False,
) -> None:
    """Run a study, each cell once, and write its report: visgen compare recipes/studies/scenes-small.yaml."""
    if diff:
        _diff(study, as_json, output, run)
        return
    if as_json:
        raise InputError("--json is for --diff; the results of a study stand in its folder")
    path, *overrides = study
    if (failed := _study(Path(path), overrides, output, run)) > 0:
        note(f"{failed} cell{'s' * (failed > 1)} failed; the same command tries again")
        raise typer.Exit(INTERNAL)


def _study(path: Path, overrides: Sequence[str], output: Path | None, run: bool) -> int:
    """Run a study and tell of it; the number of cells that failed."""
    from visgen.evaluation.studies.cells import cells_of
    from visgen.evaluation.studies.folder import STUDY_NAME, StudyFolder
    from visgen.evaluation.studies.running import run_study, stored
    from visgen.evaluation.studies.study import read_study, study_text
    from visgen.evaluation.studies.writing import check_drawing, write_report

    check_drawing()
    found, mapping = read_study(path, overrides)
    cells_of(found)  # refuses before anything is written
    place = found.output if output is None else output
    if not run and not Path(place).is_dir():
        raise InputError(f"--no-run: folder {str(place)!r} is not there; run the study first")
    with StudyFolder(place) as folder:
        folder.replace(STUDY_NAME, study_text(path, mapping, overrides))
        outcome = run_study(found, folder, note) if run else stored(found, folder)
        report = write_report(found, outcome, folder, _command(path, overrides, output))
    _show(outcome)
    say(str(report))
    return len(outcome.failed)


def _command(path: Path, overrides: Sequence[str], output: Path | None) -> str:
    words = ["visgen", "compare", str(path), *overrides, *([] if output is None else ["-o", str(output)])]
    return shlex.join(words)


def _show(outcome: Outcome) -> None:
    from rich.console import Console

    from visgen.cli.models import FILE_WIDTH
    from visgen.cli.study_tables import study_tables

    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for table in study_tables(outcome):
        console.print(table)


def _diff(folders: Sequence[str], as_json: bool, output: Path | None, run: bool) -> None:
    from rich.console import Console

    from visgen.cli.models import FILE_WIDTH
    from visgen.cli.study_tables import diff_lines, diff_table
    from visgen.evaluation.studies.diff import diff_folders

    if len(folders) != 2:
        raise InputError(f"--diff compares two folders, not {len(folders)}; give two of `visgen compare`")
    if output is not None or not run:
        raise InputError("--diff writes nothing and runs nothing; leave -o and --no-run out")
    found = diff_folders(*folders)
    if as_json:
        say(json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
        return
    for line in diff_lines(found):
        say(line)
    if any(cell.metrics for cell in found.cells):
        Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(diff_table(found))
