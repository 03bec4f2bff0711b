"""What was measured of each image of a cell, so that two cells can be compared image by image.

A file of tensors, one row per image in index order: features as float32 (half a kilobyte an image of the
scenes protocol), one number for each metric that is a mean over images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from visgen.errors import InputError
from visgen.evaluation.passes import Pass

SCHEMA = "1"
GENERATED, RECONSTRUCTED = "features.generated", "features.reconstructed"
ADHERENCE = "adherence"
PAIR_ROWS = ("psnr", "ssim", "lpips", "l1", "tokens")


@dataclass(frozen=True, eq=False)
class Kept:
    """Rows of N images by name: features (N, D), numbers (N,)."""

    rows: Mapping[str, np.ndarray]

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        from safetensors.numpy import save

        return save({name: np.ascontiguousarray(v) for name, v in self.rows.items()}, {"schema": SCHEMA})


def keep(made: Pass | None, pairs: Pass | None) -> Kept:
    """The rows worth keeping of the passes over a subject."""
    rows: dict[str, Tensor] = {}
    for name, one in ((GENERATED, made), (RECONSTRUCTED, pairs)):
        if one is not None and "features" in one.rows:
            rows[name] = one.rows["features"]
    if made is not None and ADHERENCE in made.rows:
        rows[ADHERENCE] = made.rows[ADHERENCE]
    if pairs is not None:
        rows |= {name: pairs.rows[name] for name in PAIR_ROWS if name in pairs.rows}
    return Kept({name: row.float().numpy() for name, row in rows.items()})


def read_kept(path: Path) -> Kept:
    """The rows in a file; raises `InputError` for one that cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return Kept(load(path.read_bytes()))
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove its record and run the cell again"
        ) from error
