"""The folder of a study: one record per cell, and what belongs to it.

    study.yaml      the study as it was read
    cells/          NAME.json: a record, of a finished or of a failed cell
    images/         NAME.safetensors: what was measured of each image
    samples/        NAME.png: some images, side by side
    references/     DIGEST.npz: mean and covariance of the real images' features
    plots/, table.csv, report.html     made of all that

A cell is finished when its record is there: records are written last, in one step.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visgen.data.files import LEFTOVER
from visgen.errors import InputError, shown
from visgen.pipelines.locked_folder import LockedFolder

SCHEMA = 1
KIND = "visgen-study-cell"
STUDY_NAME = "study.yaml"
CELLS, IMAGES, SAMPLES, REFERENCES, PLOTS = "cells", "images", "samples", "references", "plots"
DONE, FAILED = "done", "failed"
Record = dict[str, Any]


class StudyFolder(LockedFolder):
    """The folder that one run of a study fills; see `LockedFolder` for what entering does."""

    lock_name = ".study.lock"

    def __enter__(self) -> StudyFolder:
        super().__enter__()
        for part in (CELLS, IMAGES, SAMPLES, REFERENCES, PLOTS):
            for path in (self.folder / part).glob(".*.tmp"):
                if re.fullmatch(LEFTOVER, path.name):
                    path.unlink()
        return self

    def _refuse_foreign(self) -> None:
        if not self.folder.is_dir() or (self.folder / STUDY_NAME).exists():
            return
        if names := sorted(name for name in os.listdir(self.folder) if name != self.lock_name):
            raise InputError(
                f"folder {shown(str(self.folder))} holds {names[0]} but no {STUDY_NAME}; choose another"
            )

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write a cell's record in one step."""
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self.replace(f"{CELLS}/{record['cell']['name']}.json", text.encode())

    def record(self, name: str) -> Record | None:
        """The record of a cell; None when there is none. Raises `InputError` for a file that is none."""
        found = self.read_record(f"{CELLS}/{name}.json", SCHEMA)
        if found is not None:
            check_record(found, self.folder / CELLS / f"{name}.json")
        return found


def check_record(record: Any, path: Path) -> None:
    """Raise `InputError` unless a JSON value is the record of a cell."""
    good = isinstance(record, dict) and record.get("kind") == KIND and record.get("schema") == SCHEMA
    cell = record.get("cell") if good else None
    if not isinstance(cell, dict) or record.get("status") not in (DONE, FAILED):
        raise InputError(f"{path} is no record of a study's cell of schema {SCHEMA}; remove it")
    if record["status"] == DONE and not isinstance(record.get("metrics"), dict):
        raise InputError(f"{path} lacks metrics; remove it, and the cell is run again")
