"""`training_log.json`: what was run, how long it took, and how it went."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from visgen.evaluation.records import versions
from visgen.training.metrics import LogFile
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe

SCHEMA = 1
_PACKAGES = ("torch", "accelerate", "diffusers", "safetensors")


def training_log(recipe: Recipe, objective: Objective, log: LogFile, seconds: float) -> dict[str, Any]:
    """The record of a finished run, ready for JSON. `final` merges the last line of losses and of
    evaluations."""
    final: dict[str, Any] = {}
    for kind in ("loss", "step"):  # the last line overall comes second
        final |= next((line for line in reversed(log.lines) if kind in line), {})
    return {
        "schema": SCHEMA,
        "recipe": recipe.to_dict(),
        "steps": recipe.steps,
        "samples": recipe.steps * recipe.batch_size,
        "seconds": round(seconds, 1),
        "versions": versions({name: name for name in _PACKAGES}),
        "machine": machine(),
        "summary": objective.summary(),
        "final": final,
        "curve": log.curve(),
        "evaluations": log.evaluations(),
    }


def machine() -> dict[str, Any]:
    """Where it ran: device, cores and torch threads."""
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    return {"device": device, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
