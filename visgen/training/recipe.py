"""Recipes: what a training run is, as plain data. Everything is checked before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from visgen.data.yaml_files import apply_override, read_yaml
from visgen.errors import InputError
from visgen.schema import join, read

SCHEMA = 1
FREE_KEYS = frozenset(  # may change between an interruption and the resumption
    (
        "output",
        "steps",
        "threads",
        "compile",
        "log_every",
        "sample_every",
        "checkpoint_every",
        "keep_checkpoints",
    )
)


@dataclass(frozen=True)
class OptimizerSpec:
    """`muon` trains the objective's `matrices` with Muon and everything else with AdamW; `adamw` trains all
    with AdamW.

    Args:
        lr: peak rate of AdamW.
        muon_lr: peak rate of Muon, scaled to AdamW's update size (`match_rms_adamw`).
        muon_weight_decay: None = `weight_decay`.
        adversary_lr: rate of the discriminator's AdamW; None = `lr`.
        grad_clip: largest gradient norm, None = no clipping.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.05
    muon_lr: float = 3e-3
    muon_momentum: float = 0.95
    muon_weight_decay: float | None = None
    adversary_lr: float | None = None
    adversary_betas: tuple[float, float] = (0.5, 0.9)
    grad_clip: float | None = 1.0


@dataclass(frozen=True)
class ScheduleSpec:
    """Rate of each step as a factor of the peak rate: warm-up, flat part, decay to `final`.

    Args:
        flat: fraction of the steps after warm-up that stay at 1; None = 0.05 for `lin0`, else 0.
        final: factor at the last step.
    """

    name: Literal["constant", "linear", "cosine", "lin0"] = "constant"
    warmup_steps: int = 0
    flat: float | None = None
    final: float = 0.0


@dataclass(frozen=True)
class EmaSpec:
    """Moving average of the weights; with `warmup` the decay starts at min(decay, (1 + n) / (10 + n))."""

    decay: float = 0.999
    warmup: bool = True


@dataclass(frozen=True)
class Recipe:
    """A training run. `data`, `model` and `options` belong to the data source and the objective.

    Args:
        objective: a name in `visgen.training.OBJECTIVES`.
        output: folder of the results.
        batch_size: images per step over all processes.
        precision: autocast type; the weights themselves stay float32.
        threads: torch threads, None = leave them.
        sample_every: steps between sample grids and evaluations, 0 = never.
    """

    objective: str
    output: str
    steps: int
    batch_size: int
    data: dict[str, Any]
    schema: int = SCHEMA
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "fp32"
    threads: int | None = None
    compile: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    ema: EmaSpec | None = EmaSpec()
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise InputError(f"schema={self.schema} is not readable by this version; use schema: {SCHEMA}")
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is too small; use 1 or more")
        if not self.output.strip() or "\0" in self.output:
            raise InputError(f"output={self.output!r} is no folder; name one, such as output: runs/first")
        if not isinstance(self.data.get("source"), str):
            raise InputError("data.source is missing; name a data source, such as data: {source: scenes}")
        _check_ranges(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts and lists, as YAML and JSON know them."""
        return _plain(dataclasses.asdict(self))


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file or a mapping and apply "dotted.key=value" overrides.

    Raises:
        InputError: unreadable file, unknown key (naming the nearest), wrong type, or value out of range.
    """
    mapping = _plain(source) if isinstance(source, Mapping) else read_yaml(Path(source), "recipe")
    for override in overrides:
        apply_override(mapping, override)
    return read(Recipe, mapping)


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe, every default spelled out, as YAML."""
    import yaml

    path.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False), encoding="utf-8")


def check_resumable(saved: Mapping[str, Any], recipe: Recipe, step: int) -> None:
    """Raise `InputError` when `recipe` is not the run of the saved resolved recipe at `step`, naming the
    key."""
    current = recipe.to_dict()
    for key in current.keys() | saved.keys():
        if key not in FREE_KEYS and saved.get(key) != current.get(key):
            path, old, new = _difference(key, saved.get(key), current.get(key))
            raise InputError(
                f"{path}={new!r} differs from {old!r} of the run in output={recipe.output!r}; "
                f"restore it, or choose another output"
            )
    if recipe.steps < step:
        raise InputError(f"steps={recipe.steps} is below the {step} steps done already; use {step} or more")


def _check_ranges(recipe: Recipe) -> None:
    schedule, optimizer = recipe.schedule, recipe.optimizer
    rates = ("lr", "muon_lr", "adversary_lr", "eps")
    decays = ("weight_decay", "muon_weight_decay")
    fractions = [*optimizer.betas, *optimizer.adversary_betas, optimizer.muon_momentum]
    checks = {
        **{f"optimizer.{name}": _above(getattr(optimizer, name)) for name in rates},
        **{f"optimizer.{name}": _not_negative(getattr(optimizer, name)) for name in decays},
        "optimizer.betas and muon_momentum": (
            all(0 <= b < 1 for b in fractions),
            fractions,
            "numbers in [0, 1)",
        ),
        "seed": (-(2**63) <= recipe.seed < 2**63, recipe.seed, "64 bits"),
        "threads": (recipe.threads is None or recipe.threads >= 1, recipe.threads, "1 or more, or null"),
        "sample_every": (recipe.sample_every >= 0, recipe.sample_every, "0 (never) or more"),
        "schedule.flat": (0 <= (schedule.flat or 0) <= 1, schedule.flat, "a fraction from 0 to 1"),
        "schedule.final": (0 <= schedule.final <= 1, schedule.final, "a factor from 0 to 1"),
        "schedule.warmup_steps": (schedule.warmup_steps >= 0, schedule.warmup_steps, "0 or more"),
        "optimizer.grad_clip": (
            (optimizer.grad_clip or 1) > 0,
            optimizer.grad_clip,
            "a norm above 0, or null",
        ),
        "ema.decay": (recipe.ema is None or 0 <= recipe.ema.decay < 1, recipe.ema, "a decay in [0, 1)"),
    }
    for name, (good, value, works) in checks.items():
        if not good:
            raise InputError(f"{name}={value} is out of range; use {works}")


def _above(value: float | None) -> tuple[bool, Any, str]:
    return value is None or value > 0, value, "a number above 0"


def _not_negative(value: float | None) -> tuple[bool, Any, str]:
    return value is None or value >= 0, value, "0 or more"


def _difference(path: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """The first place where two values differ, as (dotted path, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in [*new, *old] if old.get(key) != new.get(key))
        return _difference(join(path, key), old.get(key), new.get(key))
    return path, old, new


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
