"""Official checkpoints: where they are (`catalogue`), how to read them (`files`), a conversion each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visgen.errors import InputError
from visgen.registry import Registry

# name → function (state_dict, config or None) → model in evaluation mode
OFFICIAL = Registry(
    "official system",
    {
        "var-tokenizer": "visgen.checkpoints.var:tokenizer_from_official",
        "var": "visgen.checkpoints.var:transformer_from_official",
        "karl": "visgen.checkpoints.karl:tokenizer_from_official",
        "kl16-tokenizer": "visgen.checkpoints.klvae16:tokenizer_from_official",
        "klvae16": "visgen.checkpoints.klvae16:vae_from_official",
        "chameleon-vq": "visgen.checkpoints.chameleon:tokenizer_from_official",
        "llamagen-vq": "visgen.checkpoints.llamagen:tokenizer_from_official",
        "llamagen": "visgen.checkpoints.llamagen:generator_from_official",
        "lantern-drafter": "visgen.checkpoints.lantern:drafter_from_official",
        "flextok": "visgen.checkpoints.flextok:tokenizer_from_official",
        "titok": "visgen.checkpoints.titok:tokenizer_from_official",
        "maskgit-vqgan": "visgen.checkpoints.titok:vqgan_from_official",
        "titok-maskgit": "visgen.checkpoints.maskgit:generator_from_official",
        "rar": "visgen.checkpoints.rar:generator_from_official",
        "seed-tokenizer": "visgen.checkpoints.seed:tokenizer_from_official",
        "seed-contrastive": "visgen.checkpoints.seed:contrastive_from_official",
        "elm-bae": "visgen.checkpoints.elm_tokenizer:tokenizer_from_official",
        "elm-ar": "visgen.checkpoints.elm:generator_from_official",
        "elm-mlm": "visgen.checkpoints.elm:masked_from_official",
        "xar": "visgen.checkpoints.xar:generator_from_official",
    },
)


def from_official(system: str, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Any:
    """Build our model from an official state dict: nothing missing, nothing left over.

    Args:
        system: a name of `OFFICIAL`, such as "var" or "var-tokenizer".
        state_dict: official keys → tensors, or a mapping with those under "model" or another of
            `visgen.checkpoints.files.WRAPPER_KEYS`; `read_state_dict` there reads one from a file.
        config: the official code's configuration keys; those that are left out are inferred from the shapes.

    Raises:
        UnknownNameError: no such system.
        InputError: weights that do not fit.
    """
    from visgen.checkpoints.files import unwrapped  # which imports torch

    build = OFFICIAL.load(system)
    state_dict = unwrapped(state_dict)
    for key, value in state_dict.items():
        if not isinstance(key, str) or not hasattr(value, "shape"):
            raise InputError(f"state_dict[{key!r}] is a {type(value).__name__}; names and tensors are needed")
    try:
        return build(dict(state_dict), None if config is None else dict(config))
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"state_dict is not that of the official {system!r}: its size cannot be told ({error!r})"
        ) from error


__all__ = ["OFFICIAL", "from_official"]
