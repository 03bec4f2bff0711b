"""Official checkpoints: where they are (`catalogue`), how to read them (`files`), a conversion each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visgen.registry import Registry

# name → function (state_dict, config or None) → model in evaluation mode
OFFICIAL = Registry(
    "official system",
    {
        "var-tokenizer": "visgen.checkpoints.var:tokenizer_from_official",
        "var": "visgen.checkpoints.var:transformer_from_official",
    },
)


def from_official(system: str, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Any:
    """Build our model from an official state dict: nothing missing, nothing left over.

    Args:
        system: a name of `OFFICIAL`, such as "var" or "var-tokenizer".
        state_dict: official keys → tensors; `visgen.checkpoints.files.read_state_dict` reads one from a file.
        config: the official code's configuration keys; those that are left out are inferred from the shapes.

    Raises:
        UnknownNameError: no such system.
        InputError: weights that do not fit.
    """
    return OFFICIAL.load(system)(dict(state_dict), None if config is None else dict(config))


__all__ = ["OFFICIAL", "from_official"]
