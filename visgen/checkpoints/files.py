"""Reading official weight files: safetensors, or pickles of plain tensors. Nothing in a file is executed."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.nn.model import read_safetensors

logger = logging.getLogger(__name__)

# A training script's usual names for the weights among other things ("module" is DeepSpeed's)
WRAPPER_KEYS = ("state_dict", "model", "module", "ema")
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".th")
PLAIN_CLASSES = [argparse.Namespace]  # a script's arguments, beside the weights: it has no code of its own


def read_state_dict(path: str | os.PathLike[str], prefer: str | None = None) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file or of a `.pth`, `.pt`, `.bin`, `.ckpt` or `.th` pickle, on the CPU.

    Pickles are read with `weights_only=True` and memory-mapped where their format allows. If the top level is
    no state dict but holds some under "state_dict", "model", "module" or "ema", the first of them is
    returned, or the one named `prefer` if it is there; the log says which.

    Raises:
        InputError: no such file, another suffix, a broken file, a pickle that holds code, or no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"path {str(path)!r} is no file; give a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix not in PICKLES:
        known = ", ".join((".safetensors", *PICKLES))
        raise InputError(f"path {str(path)!r} ends in {path.suffix!r}; weight files end in one of {known}")
    return _tensors_of(_read_pickle(path), path, prefer)


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(PLAIN_CLASSES):
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files of before torch 1.6 are not zip archives and cannot be mapped
                return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"path {str(path)!r} holds more than plain tensors, so it could run code and is refused; "
            "convert it to safetensors where you trust it"
        ) from error
    except Exception as error:  # a damaged pickle fails in as many ways as its opcodes have
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"path {str(path)!r} cannot be read as weights ({told})") from error


def _tensors_of(content: Any, path: Path, prefer: str | None) -> dict[str, Tensor]:
    if _is_state_dict(content):
        return dict(content)
    if isinstance(content, Mapping) and (key := _wrapper_key(content, prefer)) is not None:
        logger.info("%s: taking the weights under %r", path, key)
        return dict(content[key])
    raise InputError(
        f"path {str(path)!r} holds no state dict of tensors, neither at its top level nor under "
        f"{' or '.join(WRAPPER_KEYS)}"
    )


def unwrapped(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict that a mapping holds under one of `WRAPPER_KEYS`, or the mapping as it is."""
    key = None if _is_state_dict(content) else _wrapper_key(content)
    return content if key is None else content[key]


def _wrapper_key(content: Mapping[str, Any], prefer: str | None = None) -> str | None:
    keys = WRAPPER_KEYS if prefer is None else (prefer, *WRAPPER_KEYS)
    return next((key for key in keys if _is_state_dict(content.get(key))), None)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )
