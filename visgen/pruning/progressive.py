"""LazyLLM's schedule (arXiv 2407.14057): fewer tokens go on the deeper a layer is.

After some layers only the tokens that the newest one attends to go on. Without revival: what the pass over a
prompt drops stays dropped, while the paper's later steps may fetch a token again, which needs a loop and a
cache of its own. Here image tokens alone are dropped; the paper drops those of the text too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from visgen.errors import InputError


def schedule_layers(depths: Sequence[float], num_layers: int) -> tuple[int, ...]:
    """Layers after which tokens are dropped, from depths as fractions of the model; never the last one.

    Raises:
        InputError: no depths, some out of (0, 1), or two that fall on one layer.
    """
    if not depths or not all(0 < depth < 1 for depth in depths):
        raise InputError(f"depths={tuple(depths)} must lie in (0, 1), such as (0.3, 0.6, 0.9)")
    layers = tuple(min(max(round(depth * num_layers), 1), num_layers - 1) - 1 for depth in depths)
    if list(layers) != sorted({*layers} - {-1}):
        raise InputError(
            f"depths={tuple(depths)} are layers {layers} of {num_layers}; let them rise, each another layer"
        )
    return layers


def stage_budgets(final: int, total: int, stages: int) -> list[int]:
    """How many of `total` tokens each stage leaves, `final` the last one: each leaves the same share of what
    the one before did, rounded up. 0.3 of the tokens in three stages: 0.67, 0.45, 0.3."""
    share = (final / total) ** (1 / stages)
    return [*(math.ceil(total * share**stage) for stage in range(1, stages)), final]
