"""Atomic checkpoints: a folder appears complete or not at all, and the newest name is the one to resume."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_PREFIX, _TEMPORARY = "step_", ".writing_"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run needs to go on: weights, averaged weights, optimizer states, and the loop's own numbers."""

    objective: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizers: dict[str, Any]
    progress: dict[str, Any]


def checkpoint_path(root: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` steps."""
    return root / f"{_PREFIX}{step:08d}"


def list_checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in root.glob(f"{_PREFIX}*") if path.is_dir())


def save_checkpoint(root: Path, step: int, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint and drop all but the newest `keep`."""
    path = checkpoint_path(root, step)
    write_folder(path, lambda folder: _write(folder, checkpoint))
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU."""
    return Checkpoint(
        objective=load_file(path / "objective.safetensors"),
        ema=load_file(path / "ema.safetensors"),
        optimizers=torch.load(path / "optimizers.pt", map_location="cpu", weights_only=True),
        progress=read_progress(path),
    )


def read_progress(path: Path) -> dict[str, Any]:
    """The small part of a checkpoint: step, samples, seconds, recipe, values not yet logged."""
    return json.loads((path / "progress.json").read_text(encoding="utf-8"))


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder beside `path`, flush it to disk and rename it there."""
    temporary = path.parent / f"{_TEMPORARY}{path.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    for file in temporary.rglob("*"):
        if file.is_file():
            _flush(file)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)
    _flush(path.parent)


def remove_unfinished(root: Path) -> None:
    """Drop temporary folders that a killed process left."""
    for path in root.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    save_file(_storable(checkpoint.objective), folder / "objective.safetensors")
    save_file(_storable(checkpoint.ema), folder / "ema.safetensors")
    torch.save(checkpoint.optimizers, folder / "optimizers.pt")
    (folder / "progress.json").write_text(json.dumps(checkpoint.progress), encoding="utf-8")


def _storable(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: safetensors refuses tensors that share memory, as tied weights do."""
    order = torch.contiguous_format
    return {name: value.detach().cpu().clone(memory_format=order) for name, value in state.items()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
