"""Result records: what was measured, how, on what, with what; and which of them may stand side by side."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import visgen
from visgen.errors import InputError
from visgen.evaluation.files import write_once

SCHEMA = 1
KIND = "visgen-evaluation"
Record = dict[str, Any]
_PACKAGES = {
    "torch": "torch",
    "torchmetrics": "torchmetrics",
    "torch_fidelity": "torch-fidelity",
    "numpy": "numpy",
}
_FIELDS = ("subject", "metrics", "protocol", "reference", "count")


def versions(packages: Mapping[str, str] = _PACKAGES) -> dict[str, str | None]:
    """Versions of Python, visgen and the libraries that decide a number; None where one is not installed.

    `packages` maps names to those of distributions.
    """
    found: dict[str, str | None] = {"python": platform.python_version(), "visgen": visgen.__version__}
    for name, package in packages.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def write_results(path: str | os.PathLike[str], records: Sequence[Record], replace: bool = False) -> None:
    """Write a result document in one step.

    Args:
        path: a `.json`.
        records: what to write.
        replace: `path` holds an earlier state of the same run.

    Raises:
        InputError: something is there already, or the place cannot be written.
    """
    document = {"schema": SCHEMA, "kind": KIND, "results": list(records)}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_once(path, lambda file: file.write(text.encode()), replace)


def read_results(path: str | os.PathLike[str]) -> list[Record]:
    """The records of a result document.

    Raises:
        InputError: no such file, or none of ours.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"result {str(path)!r} cannot be read ({error}); give one of `visgen evaluate -o`"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != KIND or content.get("schema") != SCHEMA:
        raise InputError(f"result {str(path)!r} is no result of `visgen evaluate -o` of schema {SCHEMA}")
    records = content.get("results")
    if not isinstance(records, list) or not all(_is_record(record) for record in records):
        raise InputError(f"result {str(path)!r} lacks parts of a result; evaluate anew")
    return records


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not all(name in record for name in _FIELDS):
        return False
    subject, metrics, protocol, reference, count = (record[name] for name in _FIELDS)
    parts = [subject, metrics, protocol, {} if reference is None else reference]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(count, int):
        return False
    scores = metrics.values()
    values = all(isinstance(one, dict) and isinstance(one.get("value"), (int, float)) for one in scores)
    return values and isinstance(subject.get("name"), str)


def check_comparable(record: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
    """Refuse to put two records into one table unless protocol, reference and number of images agree.

    Raises:
        InputError: naming what differs. What one of them did not use (None) differs from nothing.
    """
    names = " and ".join(repr(one["subject"]["name"]) for one in (beside, record))
    for metric in sorted({*(beside.get("networks") or {})} & {*(record.get("networks") or {})}):
        if beside["networks"][metric] != record["networks"][metric]:
            raise InputError(f"{names} cannot be compared: their networks of {metric} differ")
    for what, old, new in zip(_SIDES, _sides(beside), _sides(record), strict=True):
        if None not in (old.compared, new.compared) and old.compared != new.compared:
            raise InputError(f"{names} cannot be compared: {what} differ, {old.shown} and {new.shown}")


class _Side(NamedTuple):
    shown: str
    compared: Any


_SIDES = ("protocols", "weights of the feature extractor", "references", "image counts")


def _sides(record: Mapping[str, Any]) -> tuple[_Side, ...]:
    """What must agree: the whole protocol, the extractor's weights, the reference's images, the count."""
    protocol, reference = record["protocol"], record["reference"] or {}
    weights, count = record.get("extractor_sha256"), record["count"]
    name, digest = reference.get("name"), reference.get("digest")
    return (
        _Side(f"{protocol.get('name')} v{protocol.get('version')}", protocol),
        _Side(str(weights)[:12], weights),
        _Side(f"{name} ({str(digest)[:12]})", digest or name),
        _Side(str(count), count),
    )
