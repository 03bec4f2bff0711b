"""When is a cell still the same? A key over everything that can change its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from visgen.evaluation.benchmark.machine import device_name
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.protocols import EvaluationProtocol
from visgen.evaluation.records import versions
from visgen.evaluation.references import SCENES
from visgen.evaluation.setting import Memory
from visgen.evaluation.studies.cells import Cell
from visgen.evaluation.subjects import is_image_folder, open_subject

SCHEMA = 1
# Libraries that models and judges compute with, or read pictures with
PACKAGES = {
    name: name
    for name in (
        "torch",
        "numpy",
        "scipy",
        "torchmetrics",
        "torch-fidelity",
        "transformers",
        "diffusers",
        "pillow",
    )
}
# Where files lie and whether they may be downloaded changes nothing; their content stands under "files".
_FILES = ("inception_weights", "lpips_weights", "lpips_linear")
_FREE = ("offline", "device", "prompts", *_FILES)


class Keys:
    """Keys of cells on this machine; what they are made of is read once.

    Args:
        memory: shared with the evaluations.
        samples: images of each cell that are kept for people.
    """

    def __init__(self, memory: Memory, samples: int) -> None:
        self._memory, self._samples = memory, samples

    def of(self, cell: Cell) -> str:
        """SHA-256 (hex) over model, options, protocol, reference, prompts, versions and machine.

        The source of visgen itself counts by its version.

        Raises:
            InputError: no such model, folder or file.
        """
        options, protocol = cell.options, cell.options.resolve_protocol()
        device = torch.device(options.device or "cpu")
        facts = {
            "schema": SCHEMA,
            "kind": cell.kind,
            "model": cell.model,
            "checkpoint": self._memory.once(
                ("checkpoint", cell.model, options.dtype, options.device), lambda: _checkpoint(cell)
            ),
            "options": {name: value for name, value in asdict(options).items() if name not in _FREE},
            "prompts": options.prompts,
            "protocol": protocol.to_dict(),
            "reference": self._digest(options.reference_name),
            "files": self._weights(options, protocol),
            "samples": self._samples,
            "versions": versions(PACKAGES),
            "machine": [device.type, device_name(device), torch.get_num_threads()],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _weights(self, options: EvaluationOptions, protocol: EvaluationProtocol) -> list[str | None]:
        """Digests of the weights files that were named."""
        paths = [getattr(options, name) for name in _FILES]
        return [protocol.extractor, *(None if path is None else self._digest(str(path)) for path in paths)]

    def _digest(self, name: str) -> str:
        """Of what a reference or a file holds; the scenes are drawn, and change with the version only."""
        if name.startswith(SCENES):
            return name
        return self._memory.once(("content", name), lambda: content_digest(Path(name)))


def _checkpoint(cell: Cell) -> str:
    """Digest of a model, or of a folder of images."""
    if is_image_folder(cell.model):
        return content_digest(Path(cell.model))
    asked = cell.options
    subject = open_subject(cell.model, asked.batch_size, asked.dtype, asked.device, asked.offline)
    return str(subject.checkpoint_sha256)


def content_digest(path: Path) -> str:
    """SHA-256 (hex) over names and bytes of a file, or of all files below a folder.

    Raises:
        OSError: there is nothing, or it cannot be read.
    """
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    yield from sorted(file for file in path.rglob("*") if file.is_file())


def plain_options(cell: Cell) -> dict[str, Any]:
    """What a cell was asked for, JSON-ready: tells without loading a model whether a record is its."""
    asked = {n: v if isinstance(v, (int, float, list)) else v and str(v) for n, v in _listed(cell.options)}
    return {"kind": cell.kind, "model": cell.model, **asked}


def _listed(options: EvaluationOptions) -> Iterator[tuple[str, Any]]:
    """Option by option, tuples as lists, prompts as their digest."""
    for name, value in asdict(options).items():
        if name == "prompts" and value is not None:
            yield name, hashlib.sha256("\n".join(value).encode()).hexdigest()
        else:
            yield name, list(value) if isinstance(value, tuple) else value
