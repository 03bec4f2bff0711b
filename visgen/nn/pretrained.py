"""Models of the transformers library from local folders: safetensors only, nothing missing, SDPA."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from visgen.errors import InputError

logger = logging.getLogger(__name__)


def load_pretrained(
    class_name: str, folder: str | os.PathLike[str], dtype: torch.dtype | str | None = None
) -> Any:
    """A model of the transformers library, in evaluation mode.

    Args:
        class_name: a class of that library, such as "JanusForConditionalGeneration".
        folder: local folder with `config.json` and safetensors.
        dtype: None = float32, "auto" = as stored, or a torch dtype.

    Raises:
        InputError: no such folder, files that cannot be read, weights that are missing or mis-shaped; those
            that the model does not use are logged.
    """
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{str(folder)!r} is no model folder: it has no config.json")
    import transformers

    try:
        model, told = getattr(transformers, class_name).from_pretrained(
            str(folder),
            dtype=torch.float32 if dtype is None else dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # that library raises plain ones on what it cannot read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"folder {str(folder)!r} holds no readable {class_name} ({reason})") from error
    if missing := sorted(told["missing_keys"]):
        raise InputError(
            f"weights in {str(folder)!r} do not fit {class_name}: {len(missing)} are missing "
            f"({', '.join(missing[:3])})"
        )
    if surplus := sorted(told["unexpected_keys"]):
        logger.info("%s: %d weights are not used (%s)", folder, len(surplus), ", ".join(surplus[:3]))
    return model.eval()


def save_pretrained(model: Any, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Write a model as the transformers library does; floats as `dtype`, None = theirs."""
    if dtype is None:
        model.save_pretrained(str(folder))
        return
    made: dict[tuple[int, torch.Size], torch.Tensor] = {}  # tied weights stay one tensor, and are stored once
    for tensor in model.state_dict().values():
        made.setdefault(_place(tensor), tensor.to(dtype) if tensor.is_floating_point() else tensor)
    state = {name: made[_place(tensor)] for name, tensor in model.state_dict().items()}
    model.save_pretrained(str(folder), state_dict=state)


def _place(tensor: torch.Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape
