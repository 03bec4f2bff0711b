"""DPG-Bench (arXiv 2403.05135): a PNG for each prompt, named after its `.txt`, four images in a 2×2 grid.

The judge is `dpg_bench/compute_dpg_bench.py` of github.com/TencentQQGYLab/ELLA with `--pic-num 4` and the
side of one image as `--resolution`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visgen.data.images import image_grid, write_png
from visgen.errors import InputError, shown
from visgen.evaluation.exports.layout import Layout, LayoutRequest, PictureAt, read_png, sweep

SIDE = 2  # images a row of the grid


class DpgLayout(Layout):
    """A grid per prompt."""

    place, judge, per_row = "dpg", "dpg_bench/compute_dpg_bench.py of ELLA", SIDE * SIDE

    def __init__(self, names: list[str], prompts: list[str]) -> None:
        self._names, self.rows = names, prompts

    def arrange(self, target: Path, picture: PictureAt) -> None:
        """Grids without gaps, row by row; the judge cuts them apart."""
        sweep(target)  # the judge takes every file for a picture
        for row, name in enumerate(self._names):
            images = [read_png(picture(row, j)) for j in range(self.per_row)]
            grid, path = image_grid(images, SIDE, padding=0), target / f"{name}.png"
            if not path.exists():
                write_png(grid, path)
            elif not np.array_equal(np.asarray(read_png(path)), np.asarray(grid)):
                raise InputError(f"{str(path)!r} is another picture than this export draws; move it away")


def dpg_layout(request: LayoutRequest) -> DpgLayout:
    """The layout of `--export dpg`.

    Raises:
        InputError: no folder of prompts, or another number of images than four.
    """
    if request.per_prompt not in (None, DpgLayout.per_row):
        raise InputError(
            f"--images-per-prompt {request.per_prompt}: DPG-Bench's grids hold {DpgLayout.per_row} images"
        )
    if request.prompts is None or not request.prompts.is_dir():
        given = "" if request.prompts is None else f", not {shown(str(request.prompts))}"
        raise InputError(f"--export dpg needs --prompts FOLDER, DPG-Bench's prompts/*.txt{given}")
    return DpgLayout(*read_dpg(request.prompts))


def read_dpg(folder: Path) -> tuple[list[str], list[str]]:
    """Names without suffix, sorted, and the prompts in the `.txt` files of a folder.

    Raises:
        InputError: no such files, an empty one, or one that is no UTF-8.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix == ".txt" and path.is_file())
    if not files:
        raise InputError(f"--prompts {shown(str(folder))} holds no .txt; give DPG-Bench's folder of prompts")
    return [path.stem for path in files], [_prompt(path) for path in files]


def _prompt(path: Path) -> str:
    try:
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise InputError(f"prompt {str(path)!r} is no UTF-8 ({error.reason}); save it as UTF-8") from None
    if not text:
        raise InputError(f"prompt {str(path)!r} is empty; write one, or take the file away")
    return text
