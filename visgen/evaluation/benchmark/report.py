"""What a benchmark found, as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from visgen.evaluation.benchmark.machine import device_name
from visgen.evaluation.records import versions

SCHEMA = 1
Row = dict[str, Any]


def document(
    bench: str, model: str, device: torch.device, dtypes: Sequence[str], rows: Sequence[Row], **more: Any
) -> dict[str, Any]:
    """The document: where and with what `rows` were measured.

    Args:
        bench: name of the benchmark.
        model: what was measured.
        device: where.
        dtypes: names of the dtypes that the rows speak of.
        rows: each with `name`, mostly `dtype` and `seconds`.
        more: further keys, such as what was asked for.
    """
    return {
        "schema": SCHEMA,
        "bench": bench,
        "model": model,
        "device": str(device),
        "device_name": device_name(device),
        "dtype": list(dtypes),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **more,
        "rows": list(rows),
    }
