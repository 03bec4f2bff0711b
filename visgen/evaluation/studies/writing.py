"""What is made of a study's records: table, plots, sample grids, report. Made anew each time."""

from __future__ import annotations

import importlib
from pathlib import Path

from visgen.evaluation.studies.folder import PLOTS, StudyFolder
from visgen.evaluation.studies.grids import sample_grids
from visgen.evaluation.studies.plots import draw_plots
from visgen.evaluation.studies.report import Figures, report_html
from visgen.evaluation.studies.running import Outcome
from visgen.evaluation.studies.study import Study
from visgen.evaluation.studies.table import tables, to_csv

REPORT, TABLE = "report.html", "table.csv"


def check_drawing() -> None:
    """Raise `ModuleNotFoundError` now rather than after the last cell, where nothing draws plots."""
    importlib.import_module("matplotlib")


def write_report(study: Study, outcome: Outcome, folder: StudyFolder, command: str) -> Path:
    """Write `table.csv`, `plots/` and `report.html` into a study's folder; the path of the report.

    Raises:
        InputError: a file that a record names is missing or broken, or the folder cannot be written.
    """
    found = tables(outcome)
    figures = Figures(draw_plots(found), sample_grids(found, folder.folder))
    for plot in figures.plots:
        folder.replace(f"{PLOTS}/{plot.name}.svg", plot.svg.encode())
        folder.replace(f"{PLOTS}/{plot.name}.png", plot.png)
    for grid in figures.grids:
        folder.replace(f"{PLOTS}/{grid.name}.png", grid.to_png())
    folder.replace(TABLE, to_csv(outcome).encode())
    page = report_html(study, outcome, found, figures, folder, command)
    folder.replace(REPORT, page.encode())
    return folder.folder / REPORT
