"""The text chunks of a picture: what it shows, what was drawn for it, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import visgen

if TYPE_CHECKING:
    from visgen.pipelines.output import ImageOutput


def image_facts(result: ImageOutput) -> list[dict[str, Any]]:
    """What each image shows and what was drawn for it: prompt or label, seed and ordinal, where there are
    any."""
    count = len(result)
    seeds = [seed or (None, None) for seed in result.seeds] or [(None, None)] * count
    columns: dict[str, Sequence[Any]] = {
        "prompt": result.prompts or [None] * count,
        "label": result.labels or [None] * count,
        "seed": [seed for seed, _ in seeds],
        "ordinal": [ordinal for _, ordinal in seeds],
    }
    rows = zip(*columns.values(), strict=True)
    return [{name: v for name, v in zip(columns, row, strict=True) if v is not None} for row in rows]


def text_chunks(
    facts: Sequence[Mapping[str, Any]], model: str, settings: Mapping[str, Any]
) -> dict[str, str]:
    """Text chunks of one picture.

    Args:
        facts: of each image in it; a JSON list where they differ, one value where they agree.
        model: name the model was loaded by.
        settings: of the call that made them.
    """
    merged = {name: _one_or_all([str(fact.get(name)) for fact in facts]) for name in facts[0]}
    told = json.dumps(settings, default=str, ensure_ascii=False, sort_keys=True)
    return merged | {"model": model, "settings": told, "visgen": visgen.__version__}


def _one_or_all(texts: list[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else json.dumps(texts, ensure_ascii=False)
