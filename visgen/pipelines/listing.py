"""`visgen.models()`: what can be loaded by name. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visgen.checkpoints.catalogue import CATALOGUE, OfficialCheckpoint
from visgen.pipelines import TASKS_OF
from visgen.shipped import assets_folder, shipped_models


@dataclass(frozen=True)
class ModelRow:
    """One model that `visgen.load` knows by name.

    Attributes:
        name: what to load.
        kind: "shipped" (in the package) or "official" (fetched from its authors).
        tasks: what it can do, its own task first.
        licence: of the weights.
        size_bytes: on disk or to download.
        recipe: default sampling in words, or the training recipe of a shipped model.
        parity: what its numbers were checked against.
        source: hub repository, or "package".
        notes: one line.
    """

    name: str
    kind: str
    tasks: tuple[str, ...]
    licence: str
    size_bytes: int
    recipe: str
    parity: str
    source: str
    notes: str = ""


def models() -> list[ModelRow]:
    """Shipped models, then official ones."""
    return [_shipped(name) for name in shipped_models()] + [_official(entry) for entry in CATALOGUE.values()]


def _shipped(name: str) -> ModelRow:
    folder = assets_folder() / name
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    card = index.get("card", {})
    return ModelRow(
        name=name,
        kind="shipped",
        tasks=TASKS_OF.get(index.get("_class_name"), ()),
        licence=card.get("licence", "as visgen"),
        size_bytes=_folder_size(folder),
        recipe=card.get("recipe", _words(index.get("sampling", {}))),
        parity=card.get("parity", ""),
        source="package",
        notes=card.get("notes", ""),
    )


def _official(entry: OfficialCheckpoint) -> ModelRow:
    return ModelRow(
        name=entry.alias,
        kind="official",
        tasks=entry.tasks,
        licence=entry.licence,
        size_bytes=entry.size_bytes,
        recipe=_words(entry.sampling),
        parity=entry.parity,
        source=entry.repo_id,
        notes=entry.notes,
    )


def _words(sampling: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sampling.items())


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
