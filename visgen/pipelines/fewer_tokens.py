"""Reading an image with fewer vision tokens, by pooling (TokenFLEX, 2504.03154): for LLaVA, call by call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from visgen.errors import InputError
from visgen.nn.grid_pooling import pool_grid, square_side


@contextmanager
def fewer_tokens(model: Any, inputs: Any, num_tokens: int | None) -> Iterator[Any]:
    """Pool what the tower sees before the projector; gives inputs with as many placeholders.

    Args:
        model: a LLaVA, which is as it was afterwards.
        inputs: of one image a row; None for `num_tokens` leaves them.
        num_tokens: a square, at most the model's own.

    Raises:
        InputError: another family, or no such number.
    """
    if num_tokens is None:
        yield inputs
        return
    if model.config.model_type != "llava":
        raise InputError(
            f"num_tokens={num_tokens}: a model of type {model.config.model_type!r} lays its tokens out in "
            "another way; leave it out, or prune"
        )
    square_side(num_tokens)
    projector = model.model.multi_modal_projector
    hook = projector.register_forward_pre_hook(lambda _, args: (pool_grid(args[0], num_tokens),))
    try:
        yield _without_placeholders(inputs, model.config.image_token_id, num_tokens)
    finally:
        hook.remove()


def _without_placeholders(inputs: Any, image_id: int, count: int) -> dict[str, Any]:
    """The first `count` placeholders of each row; all rows lose the same number."""
    ids = inputs["input_ids"]
    place = ids == image_id
    keep = ~place | (place.cumsum(1) <= count)
    lengths = keep.sum(1).unique()
    if len(lengths) > 1:
        raise InputError(f"num_tokens={count}: images of a batch have different numbers of tokens")
    shorter = {
        name: value[keep].view(len(ids), -1)
        for name, value in inputs.items()
        if value.shape[:2] == ids.shape[:2] and value.ndim == 2
    }
    return {**inputs, **shorter}
