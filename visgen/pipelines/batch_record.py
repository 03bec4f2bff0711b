"""What makes a batch the batch it is: written down when it starts, compared when it goes on."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from visgen.errors import InputError, shown
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.batch_folder import SCHEMA, BatchFolder
from visgen.pipelines.fingerprint import weights_digest
from visgen.pipelines.rows import Row
from visgen.pipelines.seeds import FRESH_SEEDS

UNSHOWN = ("prompts", "weights")  # digests tell a reader nothing


def describe(
    pipe: ImagePipeline,
    rows: Sequence[Row],
    sampling: Any,
    *,
    num_images: int,
    seed: int | None,
    negative_prompt: str | None,
    batch_size: int | None,
    **told: Any,
) -> dict[str, Any]:
    """The record of a batch: everything that its pixels follow from.

    Args:
        pipe: what makes it.
        rows: prompts or labels.
        sampling: resolved options.
        num_images: of each row.
        seed: None = not chosen yet.
        negative_prompt: as given.
        batch_size: None where pixels do not show it.
        told: of decoding, see `strategy_facts` and `length_facts`; a value differs from none.
    """
    return {
        "schema": SCHEMA,
        "rows": len(rows),
        "num_images": num_images,
        "prompts": _digest(rows),
        "seed": seed,
        "batch_size": batch_size,
        **pipe._settings(sampling, negative_prompt=negative_prompt, **told),
        "torch_version": torch.__version__,
        "weights": weights_digest(pipe),
    }


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps([[row.subject, row.seed] for row in rows]).encode()).hexdigest()


def settle(place: BatchFolder, described: Mapping[str, Any]) -> int:
    """The seed of the batch in the folder, which must be this one; a new batch is written down first.

    Raises:
        InputError: another batch is there, naming what differs.
    """
    stored, record = place.record(), json.loads(json.dumps(described))  # as it reads when it comes back
    if stored is None:
        seed = secrets.randbelow(FRESH_SEEDS) if record["seed"] is None else record["seed"]
        place.claim(record | {"seed": seed})
        return seed
    if record["seed"] is None:
        record["seed"] = stored.get("seed")
    differences = _differences(stored, record)
    if differences:
        raise InputError(
            f"folder {shown(str(place.folder))} holds another batch: {', '.join(differences)}; "
            "repeat that one, or choose another folder"
        )
    return record["seed"]


def _differences(stored: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    there, here = _flat(stored), _flat(record)
    names = [name for name in here | there if there.get(name) != here.get(name)]
    if names == ["model"]:  # the same weights under another name
        return []
    if len(names) > 1 and "weights" in names:  # of another model or in another dtype they are others
        names.remove("weights")
    return [
        f"other {name}"
        if name in UNSHOWN
        else f"{name} is {shown(there.get(name))} there, {shown(here.get(name))} here"
        for name in names
    ]


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    sampling = record.get("sampling")
    return {**record, "sampling": None, **(sampling if isinstance(sampling, dict) else {})}
