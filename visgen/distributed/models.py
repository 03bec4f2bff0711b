"""The model of a job on every machine that works at it: the same weights, or none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visgen.checkpoints.catalogue import CATALOGUE
from visgen.errors import InputError, shown
from visgen.pipelines.fingerprint import weights_digest
from visgen.pipelines.loading import load
from visgen.pipelines.model_index import INDEX_NAME
from visgen.pipelines.sources import models_folder
from visgen.shipped import shipped_models


@dataclass(frozen=True)
class ModelSource:
    """How a model is loaded, in whatever folder a process stands.

    Attributes:
        name: what `visgen.load` takes; of a folder the whole path.
        task: as for `visgen.load`.
        dtype, device, offline: as for `visgen.load`.
        torch_version: of the process that started the job.
    """

    name: str
    task: str
    dtype: str | None
    device: str | None
    offline: bool
    torch_version: str

    @classmethod
    def of(
        cls, name: str, task: str, dtype: str | None = None, device: str | None = None, offline: bool = False
    ) -> ModelSource:
        """The source of a name as it was typed here."""
        return cls(_absolute(name), task, dtype, device, offline, torch.__version__)

    def open(self, device: str | None) -> Any:
        """The pipeline on a device, quiet.

        Raises:
            InputError: no such model, or one that cannot do the task.
        """
        pipe = load(self.name, task=self.task, dtype=self.dtype, device=device, local_files_only=self.offline)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def open_same(self, weights: str, of: Callable[[Any], str] = weights_digest) -> Any:
        """The pipeline on the job's device.

        Args:
            weights: digest that the job was started with.
            of: how it is made of a pipeline.

        Raises:
            InputError: its weights, or torch, are others here than those the job was started with.
        """
        if torch.__version__ != self.torch_version:
            raise InputError(
                f"torch {torch.__version__} on {os.uname().nodename} is not the job's {self.torch_version}; "
                "install the same on all machines"
            )
        pipe = self.open(self.device)
        if of(pipe) != weights:
            raise InputError(
                f"model {shown(self.name)} on {os.uname().nodename} has other weights than the job was "
                "started with; give all machines the same files"
            )
        return pipe


def _absolute(name: str) -> str:
    """A folder's whole path; a name that `visgen.load` looks up elsewhere first stays as it is."""
    root = models_folder()
    elsewhere = name in shipped_models() or name in CATALOGUE
    if elsewhere or (root is not None and (root / name / INDEX_NAME).is_file()):
        return name
    path = Path(os.path.expanduser(name))
    return str(path.resolve()) if path.is_dir() else name
