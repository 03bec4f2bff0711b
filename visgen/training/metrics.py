"""Scalars of the steps between two log lines, kept on the device until they are asked for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visgen.processes import Processes


class TrainingDivergedError(RuntimeError):
    """A loss or a gradient is no longer finite; the newest checkpoint is from before."""


class Meter:
    """Collects scalars step by step without waiting for the device; `flush` fetches them in one transfer."""

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows = list(rows or [])  # fetched, not yet logged; each holds its "step"
        self._pending: list[dict[str, float | Tensor]] = []

    def add(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Take the scalars of a step."""
        kept = {
            k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in values.items()
        }  # buffers change
        self._pending.append({"step": step, **kept})

    def flush(self) -> None:
        """Fetch what is pending.

        Raises:
            TrainingDivergedError: a loss or gradient norm is not finite, naming the first such step.
        """
        tensors = [v.float() for row in self._pending for v in row.values() if isinstance(v, Tensor)]
        fetched = iter(torch.stack(tensors).tolist() if tensors else [])
        rows = [
            {k: next(fetched) if isinstance(v, Tensor) else v for k, v in row.items()}
            for row in self._pending
        ]
        self._pending = []
        for row in rows:
            _check_finite(row)
        self.rows += rows

    def take(self, processes: Processes) -> dict[str, float]:
        """Mean of each scalar over the fetched steps and over processes; starts anew."""
        values: dict[str, list[float]] = {}
        for row in processes.gather(self.rows):
            for name, value in row.items():
                values.setdefault(name, []).append(value)
        self.rows = []
        values.pop("step", None)
        return {name: math.fsum(items) / len(items) for name, items in values.items()}


class LogFile:
    """`log.jsonl`: one line of scalars per `log_every` steps; lines after `step` are dropped on resuming."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = [line for line in _read_lines(path) if line["step"] <= step]
        temporary = path.with_name(f".writing_{path.name}")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")
        os.replace(temporary, path)  # a kill now must not cost the lines of earlier sessions

    def write(self, line: dict[str, Any]) -> None:
        """Append a line."""
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def curve(self, points: int = 200) -> list[dict[str, float]]:
        """At most `points` evenly spaced {"step", "loss"}, the last one always."""
        losses = [{"step": line["step"], "loss": line["loss"]} for line in self.lines if "loss" in line]
        stride = max(1, math.ceil(len(losses) / points))
        return losses[::-1][::stride][::-1]

    def evaluations(self) -> list[dict[str, float]]:
        """All lines of scores."""
        return [line for line in self.lines if any(name.startswith("eval_") for name in line)]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of the file; one cut short by a kill is dropped."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _check_finite(row: Mapping[str, float]) -> None:
    for name in ("loss", "grad_norm", "adversary_loss", "adversary_grad_norm"):
        if not math.isfinite(row.get(name, 0.0)):
            raise TrainingDivergedError(
                f"{name} is {row[name]} at step {row['step']}; the newest checkpoint is from before: "
                "lower optimizer.lr, or train with precision: fp32"
            )
