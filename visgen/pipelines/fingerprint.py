"""One short text that changes when anything a pipeline computes with changes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from visgen.tokenizers.wrapping import WrapperConfig


def weights_digest(pipe: Any) -> str:
    """SHA-256 (hex) over the configurations, weights (as loaded, dtype included) and words of all components.

    Takes about a second per GB. The name or place of the model does not matter.
    """
    digest = hashlib.sha256()
    for slot, component in sorted(pipe.components.items()):
        about = _config(component) if isinstance(component, nn.Module) else _words(component)
        digest.update(
            json.dumps([slot, type(component).__name__, about], sort_keys=True, default=str).encode()
        )
        if isinstance(component, nn.Module):
            add_tensors(digest, component)
    return digest.hexdigest()


def add_tensors(digest: Any, module: nn.Module) -> None:
    """Feed a module's tensors to a `hashlib` digest, in the order of their names."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _config(module: nn.Module) -> dict[str, Any]:
    config = getattr(module, "config", {})
    config = asdict(config) if isinstance(config, WrapperConfig) else dict(config)
    return {name: value for name, value in config.items() if not name.startswith("_")}  # paths, versions


def _words(text: Any) -> list[Any]:
    """What a text component turns prompts into ids or features with."""
    return [] if text is None else [text.length, text.known_words(), getattr(text, "encoder", None)]
