"""What wrappers of the transformers library's models have in common: a configuration, settings in files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visgen.errors import InputError, shown
from visgen.nn.model import read_json
from visgen.tokenizers.tokens import Grid

SETTINGS = "visgen.json"  # beside files of the transformers library: what those do not say


@dataclass(frozen=True)
class WrapperConfig:
    """What pipelines ask of a component's configuration; the wrapped model has its own."""

    codebook_size: int
    condition: str = "prompt"


def write_settings(folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Write constructor arguments beside a saved model; a `Grid` becomes [rows, columns]."""
    plain = {k: [v.h, v.w] if isinstance(v, Grid) else v for k, v in settings.items()}
    (Path(folder) / SETTINGS).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments that `write_settings` wrote; none where there is no such file.

    Raises:
        InputError: no JSON object, or a grid of anything but two positive integers.
    """
    path = Path(folder) / SETTINGS
    if not path.is_file():
        return {}
    settings = read_json(path)
    if "grid" in settings:
        settings["grid"] = _as_grid(settings["grid"], path)
    return settings


def _as_grid(sides: Any, path: Path) -> Grid:
    if not isinstance(sides, list) or len(sides) != 2 or not all(type(n) is int and n > 0 for n in sides):
        raise InputError(f"{path}: grid={shown(sides)} must be [rows, columns]")
    return Grid(*sides)
