"""The base of every model: diffusers' `ModelMixin` and `ConfigMixin`, loaded strictly and from safetensors
only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.nn.building import assemble
from visgen.shipped import shared_folder

__all__ = ["VisgenModel", "read_config", "read_json", "read_safetensors", "read_weights"]

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARED = "_shared"  # key of config.json: submodules whose weights a shipped model holds
Model = TypeVar("Model", bound="VisgenModel")


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
            InputError: missing or broken folder or file; a configuration or weights that do not fit.
        """
        folder = Path(folder)
        config = read_config(folder, cls.__name__)
        state = read_weights(folder)
        state = shared_weights(config.get(SHARED), str(folder)) | state  # its own come first
        if dtype is None:
            state = {
                name: tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in state.items()
            }
        own = {key: value for key, value in config.items() if not key.startswith("_")}
        model = assemble(cls, own, state, str(folder))
        if isinstance(dtype, torch.dtype):
            model = model.to(dtype)
        return model.eval()

    def save_pretrained(  # type: ignore[override]
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        shared: Mapping[str, str] | None = None,
    ) -> None:
        """Write `config.json` and the weights, floats as `dtype` (None: as they are).

        Args:
            folder: where; made if missing.
            dtype: of the stored floats.
            shared: submodule → "MODEL/COMPONENT" of a shipped model with the same weights, to refer to
                instead of writing them; tensors that differ in shape are written.

        Raises:
            InputError: a reference to nothing, or to other weights.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_config(folder)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if dtype is not None:
            state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
        if shared:
            state = without_shared(state, shared)
            path = folder / self.config_name
            path.write_text(
                json.dumps(read_json(path) | {SHARED: dict(shared)}, indent=2, sort_keys=True) + "\n"
            )
        save_file(state, str(folder / WEIGHTS), metadata={"format": "pt"})


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; raises `InputError` when it cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:  # nested a thousand deep
        raise InputError(f"{path} is no readable JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__} instead of an object")
    return content


def read_config(folder: Path, class_name: str | None = None) -> dict[str, Any]:
    """The `config.json` of a model folder; `class_name` must agree with its `_class_name`."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json")
    config = read_json(path)
    found = config.get("_class_name", class_name)
    if class_name is not None and found != class_name:
        raise InputError(f"{folder} holds a {found}, not a {class_name}")
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder: one safetensors file, or the shards that its index names."""
    single, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if single.is_file():
        return read_safetensors(single)
    if not index.is_file():
        raise InputError(f"{folder} has no {WEIGHTS}: only safetensors weights are read")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise InputError(f"{index} has no weight_map of tensor names to file names")
    state: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        state |= read_safetensors(folder / Path(name).name)
    return state


def shared_weights(shared: Any, source: str) -> dict[str, Tensor]:
    """The tensors of submodules that a config takes from shipped models, {submodule: "MODEL/COMPONENT"}.

    Raises:
        InputError: anything else, or a reference to nothing.
    """
    if shared is None:
        return {}
    if not isinstance(shared, dict) or not all(isinstance(reference, str) for reference in shared.values()):
        raise InputError(
            f"{source}: config.{SHARED} must be an object of submodule names and MODEL/COMPONENT"
        )
    return {
        f"{module}.{name}": tensor
        for module, reference in shared.items()
        for name, tensor in read_weights(shared_folder(reference)).items()
    }


def without_shared(state: Mapping[str, Tensor], shared: Mapping[str, str]) -> dict[str, Tensor]:
    """`state` without the tensors that shipped models hold; raises `InputError` if one has other values."""
    there = shared_weights(dict(shared), "shared")
    same_shape = {key for key, tensor in state.items() if key in there and there[key].shape == tensor.shape}
    for key in sorted(same_shape):
        if not torch.equal(state[key], there[key].to(state[key].dtype)):
            raise InputError(f"shared={dict(shared)}: {key} has other values there; leave its submodule out")
    if not same_shape:
        raise InputError(f"shared={dict(shared)} holds nothing of this model")
    return {key: tensor for key, tensor in state.items() if key not in same_shape}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; raises `InputError` when it cannot be read."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"path {str(path)!r} is no readable safetensors file ({error})") from error


def _as_tuple(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_tuple(item) for name, item in value.items()}
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
