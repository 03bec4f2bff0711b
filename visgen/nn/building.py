"""From a configuration and a state dict of a file to a model: all is checked, and nothing is built that
the weights could not fill."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from visgen.errors import InputError, shown
from visgen.nn.precision import KeepFloat32
from visgen.schema import read_arguments

Model = TypeVar("Model", bound=nn.Module)
SMALL = 2**16  # integers up to here are never too large for a configuration


def construct(cls: Callable[..., Model], config: Mapping[str, Any], where: str) -> Model:
    """Build a model from a configuration that was read somewhere.

    Raises:
        InputError: unknown keys, wrong types, or sizes that no layer takes.
    """
    arguments = read_arguments(cls, config, where)
    for key, number in _integers(arguments):
        if number < 0:
            raise InputError(f"{where}.{key}={shown(config[key])} is negative; sizes and counts are not")
    try:
        return cls(**arguments)
    except InputError:
        raise
    except Exception as error:  # whatever a layer says of a size that is zero, negative, odd or too large
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where} makes no {cls.__name__} ({told}); correct its sizes") from error


def assemble(
    cls: Callable[..., Model], config: Mapping[str, Any], state: Mapping[str, Tensor], source: str
) -> Model:
    """A model of a configuration with the tensors of `state`, which every key must match.

    Args:
        cls: class of the model.
        config: keyword arguments of its constructor.
        state: key → tensor.
        source: where they come from, for messages.

    Raises:
        InputError: a configuration or weights that do not fit.
    """
    try:
        _check_integers(config, max(SMALL, sum(tensor.numel() for tensor in state.values())))
        with torch.device("meta"), _Budget(100 + 10 * len(state)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of initial values, which no tensor has here
            model = construct(cls, config, "config")
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    load_strictly(model, state, source)
    return model


def _check_integers(config: Mapping[str, Any], largest: int) -> None:
    """Refuse integers above the number of all weights: they count channels, codes, blocks or positions."""
    for key, number in _integers(config):
        if number > largest:
            raise InputError(f"config.{key}={shown(config[key])} is more than the weights that are there")


def _integers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Each integer of a configuration and of its lists, with its key."""
    for key, value in config.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, int):
                yield key, one


class _Budget(TorchFunctionMode):
    """Stops a constructor that makes far more tensors than there are: a depth of a million would take hours.

    Other calls pass, `no_grad` among them, which must come to its end.
    """

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.left = tensors

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.empty, torch.zeros, torch.ones, torch.full):
            self.left -= 1
            if self.left < 0:
                raise InputError(
                    "config describes a model of far more layers than the weights that are there"
                )
        return function(*args, **(kwargs or {}))


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put `state` into a model on the meta device; every key must match, and nothing stays on meta.

    NaN and infinity are refused: a sum over each tensor finds them, 0.04 s for a gigabyte.

    Raises:
        InputError: naming up to three missing, surplus, mis-shaped, mistyped or non-finite keys.
    """
    own = model.state_dict()
    told = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in _misfits(own, state) if keys]
    if told:
        raise InputError(f"weights in {source} do not fit {type(model).__name__}: {'; '.join(told)}")
    if broken := [key for key, tensor in state.items() if not _is_finite(tensor)]:
        names = ", ".join(broken[:3])
        raise InputError(f"weights in {source} hold NaN or infinity ({len(broken)} tensors: {names})")
    state = {
        k: t.float() if t.is_floating_point() and _keeps_float32(model, k) else t for k, t in state.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if left:
        raise RuntimeError(f"{type(model).__name__} left {', '.join(left)} on the meta device")


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[tuple[str, list[str]]]:
    """What is wrong with `state`, kind by kind: the keys, with shapes or types."""
    both = [(key, tensor, state[key]) for key, tensor in own.items() if key in state]
    yield "missing", [key for key in own if key not in state]
    yield "surplus", [str(key) for key in state if key not in own]
    yield (
        "mis-shaped",
        [
            f"{k} {tuple(new.shape)} instead of {tuple(old.shape)}"
            for k, old, new in both
            if new.shape != old.shape
        ],
    )
    yield (
        "mistyped",
        [
            f"{k} {new.dtype} instead of {old.dtype}"
            for k, old, new in both
            if new.is_floating_point() != old.is_floating_point() or new.is_complex()
        ],
    )


def _is_finite(tensor: Tensor) -> bool:
    """One non-finite value makes the sum so; a sum that overflowed by itself is looked at again."""
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # torch adds no 8-bit floats
    return math.isfinite(tensor.sum()) or bool(torch.isfinite(tensor).all())


def _keeps_float32(model: nn.Module, key: str) -> bool:
    parts = key.split(".")[:-1]
    return any(
        isinstance(model.get_submodule(".".join(parts[:n])), KeepFloat32) for n in range(1, len(parts) + 1)
    )
