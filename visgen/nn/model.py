"""The base of every model: diffusers' `ModelMixin` and `ConfigMixin`, loaded strictly and from safetensors
only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from visgen.errors import InputError

WEIGHTS = "diffusion_pytorch_model.safetensors"
Model = TypeVar("Model", bound="VisgenModel")


class KeepFloat32(nn.Module):
    """A module that stays float32 under `.to(bfloat16)`: quantizers, FSQ, rotary tables."""

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        def keep(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            if out.dtype == tensor.dtype or not tensor.is_floating_point():
                return out
            return tensor.to(device=out.device, dtype=torch.float32)

        return super()._apply(keep, recurse)


class VisgenModel(ModelMixin, ConfigMixin):
    """A model saved as `config.json` + safetensors.

    Subclasses decorate `__init__` with `diffusers.configuration_utils.register_to_config`; sequence values of
    the config are tuples.
    """

    config_name = "config.json"

    def to(self: Model, *args: Any, **kwargs: Any) -> Model:
        """As `nn.Module.to`; `KeepFloat32` modules see to themselves, of which diffusers would warn."""
        return nn.Module.to(self, *args, **kwargs)

    def _init_tuples(self) -> None:
        """Turn list values of the config (JSON knows no tuples) into tuples."""
        self._internal_dict = type(self.config)({k: _as_tuple(v) for k, v in self.config.items()})

    @classmethod
    def from_pretrained(
        cls: type[Model], folder: str | Path, *, dtype: torch.dtype | str | None = None
    ) -> Model:
        """Load a model folder.

        Args:
            folder: local folder with `config.json` and safetensors.
            dtype: None = float32, "auto" = as stored, or a torch dtype. `KeepFloat32` parts stay float32.

        Raises:
            InputError: missing folder or file; missing, surplus or mis-shaped weights.
        """
        folder = Path(folder)
        config = read_config(folder, cls.__name__)
        state = read_weights(folder)
        with torch.device("meta"):
            model = cls(**{key: value for key, value in config.items() if not key.startswith("_")})
        if dtype is None:
            state = {
                name: tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in state.items()
            }
        load_strictly(model, state, str(folder))
        if isinstance(dtype, torch.dtype):
            model = model.to(dtype)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:  # type: ignore[override]
        """Write `config.json` and the weights, floats as `dtype` (None: as they are)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_config(folder)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if dtype is not None:
            state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
        save_file(state, str(folder / WEIGHTS), metadata={"format": "pt"})


def read_config(folder: Path, class_name: str | None = None) -> dict[str, Any]:
    """The `config.json` of a model folder; `class_name` must agree with its `_class_name`."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json")
    config = json.loads(path.read_text())
    found = config.get("_class_name", class_name)
    if class_name is not None and found != class_name:
        raise InputError(f"{folder} holds a {found}, not a {class_name}")
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder: one safetensors file, or the shards that its index names."""
    single, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if single.is_file():
        return load_file(single)
    if not index.is_file():
        raise InputError(f"{folder} has no {WEIGHTS}: only safetensors weights are read")
    state: dict[str, Tensor] = {}
    for name in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        state |= load_file(folder / Path(name).name)
    return state


def load_strictly(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put `state` into a model on the meta device; every key must match, and nothing stays on meta.

    Raises:
        InputError: naming up to three missing, surplus or mis-shaped keys.
    """
    own = model.state_dict()
    problems = {
        "missing": [key for key in own if key not in state],
        "surplus": [key for key in state if key not in own],
        "mis-shaped": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    told = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in problems.items() if keys]
    if told:
        raise InputError(f"weights in {source} do not fit {type(model).__name__}: {'; '.join(told)}")
    state = {
        k: t.float() if t.is_floating_point() and _keeps_float32(model, k) else t for k, t in state.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if left:
        raise RuntimeError(f"{type(model).__name__} left {', '.join(left)} on the meta device")


def _keeps_float32(model: nn.Module, key: str) -> bool:
    parts = key.split(".")[:-1]
    return any(
        isinstance(model.get_submodule(".".join(parts[:n])), KeepFloat32) for n in range(1, len(parts) + 1)
    )


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
