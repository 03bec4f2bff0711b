"""Compare computed tensors with golden ones, stage by stage, to the tolerances of `meta.json`."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass
class Row:
    """One comparison."""

    stage: str
    difference: float
    tolerance: str
    passed: bool


@dataclass
class Golden:
    """A golden folder: its meta data, its tensors, and what has been compared so far."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())

    def load(self, *endings: str) -> dict[str, Tensor]:
        """The one safetensors file in `meta.json` with an ending; the first that fits one file counts."""
        for ending in endings:
            names = [name for name in self.meta["files"] if name.endswith(ending)]
            if len(names) == 1:
                return load_file(self.folder / names[0])
        raise FileNotFoundError(f"{self.folder}: no single file ends with {' or '.join(endings)}")

    def cases(self, inputs: Iterable[str]) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
        """(name, meta data, tensors by their name in the case) of every case of every file; then `finish`."""
        patterns = list(inputs)
        for file, entry in self.meta["files"].items():
            tensors = load_file(self.folder / file)
            for name, case in entry["cases"].items():
                start = f"{name}."
                yield (
                    name,
                    case,
                    {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)},
                )
            self.finish(tensors, patterns)

    def compare(self, stage: str, found: Tensor | bool, expected: Tensor) -> None:
        """Add a row; a shape that differs is a miss."""
        self.seen.add(stage)
        found = found if isinstance(found, Tensor) else torch.tensor(found)
        found = found.detach().cpu()
        if found.numel() != expected.numel() or found.squeeze().shape != expected.squeeze().shape:
            shapes = f"{tuple(found.shape)} instead of {tuple(expected.shape)}"
            self.rows.append(Row(stage, float("inf"), shapes, False))
            return
        found = found.reshape(expected.shape)
        if not expected.is_floating_point():
            self._compare_integers(stage, found, expected)
            return
        self._compare_floats(stage, found, expected)

    def _compare_integers(self, stage: str, found: Tensor, expected: Tensor) -> None:
        away = (found.long() - expected.long()).abs()
        if expected.dtype == torch.uint8:
            fraction = float((away > 0).float().mean())
            passed = int(away.max()) <= 1 and fraction <= 0.005
            self.rows.append(Row(stage, float(away.max()), "1 level on 0.5 %", passed))
            return
        self.rows.append(Row(stage, float((away > 0).sum()), "equal", not away.any()))

    def _compare_floats(self, stage: str, found: Tensor, expected: Tensor) -> None:
        atol, rtol = self._tolerance(stage)
        infinite = torch.isinf(expected)
        same_holes = torch.equal(torch.isinf(found), infinite) and torch.equal(
            found[infinite], expected[infinite]
        )
        away = torch.where(infinite, 0.0, (found - expected).abs())
        passed = same_holes and bool((away <= atol + rtol * expected.abs().where(~infinite, 0)).all())
        difference = float(away.max()) if away.numel() and same_holes else 0.0 if same_holes else float("inf")
        self.rows.append(Row(stage, difference, f"{atol:g} + {rtol:g}·|x|", passed))

    def _tolerance(self, stage: str) -> tuple[float, float]:
        for pattern, tolerance in self.meta["tolerance"].items():
            if isinstance(tolerance, dict) and fnmatch.fnmatchcase(stage, pattern):
                return float(tolerance["atol"]), float(tolerance["rtol"])
        raise KeyError(f"no tolerance for {stage}")

    def finish(self, names: Iterable[str], inputs: Iterable[str]) -> None:
        """Every golden tensor must have been compared or be an input (glob patterns); the others are
        misses."""
        patterns = list(inputs)
        for name in names:
            if name not in self.seen and not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                self.rows.append(Row(name, float("inf"), "not compared", False))

    @property
    def passed(self) -> bool:
        """Whether there is anything, and nothing missed."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    def table(self) -> str:
        """One line per stage."""
        width = max(len(row.stage) for row in self.rows)
        lines = [f"{r.stage:{width}}  {r.difference:10.3g}  {r.tolerance:22}  {_word(r)}" for r in self.rows]
        misses = sum(not row.passed for row in self.rows)
        return "\n".join([*lines, f"{len(self.rows)} stages, {misses} missed"])


def _word(row: Row) -> str:
    return "ok" if row.passed else "MISS"
