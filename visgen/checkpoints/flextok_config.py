"""Configuration of official FlexTok checkpoints (`EPFL-VILAB/flextok_*`): a tree of classes with arguments.

The classes are known here by name, the last part of their path; nothing that a file names is imported. The
names of modules are the file's own: they are prefixes of its keys.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visgen.errors import InputError, shown
from visgen.nn.model import read_json

Entry = Mapping[str, Any]

SECTIONS = {
    "vae": "StableDiffusionVAE",
    "encoder": "SequentialModuleDictWrapper",
    "decoder": "SequentialModuleDictWrapper",
    "regularizer": "FSQ",
}
TRAINING = {"flow_matching_noise_module": "MinRFNoiseModule", "pipeline": "MinRFPipeline"}
SIDES = ("encoder", "decoder")
# Class → module of ours in (encoder, decoder); "" holds no weights, None does not belong there
ROLES: Mapping[str, tuple[str | None, str | None]] = {
    "PerSampleOp": ("", ""),
    "BlockWiseSequencePacker": ("", ""),
    "SequenceUnpacker": ("", ""),
    "PatchEmbedder": ("patches", "patches"),
    "PositionalEmbeddingAdder": ("positions", "positions"),
    "Registers1D": ("registers", None),
    "FlexTransformer": ("blocks", "blocks"),
    "LinearHead": ("head", None),
    "LinearLayer": (None, "from_codes"),
    "MaskedNestedDropout": (None, "mask_token"),
    "LearnedNullCond": (None, "null_token"),
    "TimestepEmbedder": (None, "time"),
    "ToPatchesLinearHead": (None, "head"),
    "MLPHead": (None, "repa"),  # predicts features of another network, in training only
}
NEEDED = (
    ("patches", "positions", "registers", "blocks", "head"),
    ("patches", "positions", "blocks", "head", "from_codes", "mask_token", "null_token", "time"),
)
NEUTRAL: Entry = {  # options that no published model uses
    "qkv_bias": False,
    "proj_bias": False,
    "mlp_bias": False,
    "gated_mlp": True,
    "qk_norm": True,
    "use_mup_readout": False,
}
MASKS = ("causal_last", "full")
LONGEST = 2**20  # characters of a section in a file's header


def read_config(path: Path) -> dict[str, Any] | None:
    """The configuration of a safetensors file: its own header's, or `config.json` beside it; None = neither.

    Raises:
        InputError: a `config.json` that cannot be read.
    """
    config = parsed(_header(path))
    if config.keys() >= SECTIONS.keys():
        return config
    beside = path.parent / "config.json"
    config = parsed(read_json(beside)) if beside.is_file() else {}
    return config if config.keys() >= SECTIONS.keys() else None


def _header(path: Path) -> dict[str, Any]:
    """The `__metadata__` of a safetensors file; empty for what is none."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length) if length <= 100 * LONGEST else b"{}")
        metadata = header.get("__metadata__") or {}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return dict(metadata) if isinstance(metadata, dict) else {}


def parsed(config: Entry) -> dict[str, Any]:
    """A configuration whose sections may be strings of Python literals, or lie under a key "config"."""
    inner = config.get("config")
    if isinstance(inner, Mapping) and "encoder" in inner:
        return parsed(inner)
    return {key: _literal(value) for key, value in config.items()}


def _literal(value: Any) -> Any:
    if not isinstance(value, str) or len(value) > LONGEST:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def checked(config: Entry) -> dict[str, Any]:
    """`parsed`, with all of the sections and of the classes that are known.

    Raises:
        InputError: a section that is missing, or a class that is not known in its place.
    """
    config = parsed(config)
    for section, known in SECTIONS.items():
        if section not in config:
            raise InputError(f"config.{section} is missing; give the content of the checkpoint's config.json")
        _check_class(config[section], section, known)
    for section, known in TRAINING.items():
        if section in config:
            _check_class(config[section], section, known)
    return config


def _check_class(entry: Any, where: str, known: str) -> None:
    if (found := class_of(entry, where)) != known:
        raise InputError(f"config.{where} names the class {shown(found)}; only {known} is known there")


def class_of(entry: Any, where: str) -> str:
    """The class that an entry names, without its path.

    Raises:
        InputError: no entry with a class name.
    """
    target = entry.get("_target_") if isinstance(entry, Mapping) else None
    if not isinstance(target, str):
        raise InputError(f"config.{where}={shown(entry)} must be an object with a _target_")
    return target.rpartition(".")[2]


def modules_of(config: Entry, side: int) -> dict[str, tuple[str, Entry]]:
    """Modules of the encoder (side 0) or the decoder (1): our name → (name in the file, arguments).

    Raises:
        InputError: a class that is not known there, one twice, or one missing.
    """
    section = SIDES[side]
    entries = config[section].get("module_dict")
    if not isinstance(entries, Mapping):
        raise InputError(f"config.{section}.module_dict={shown(entries)} must be an object of modules")
    out: dict[str, tuple[str, Entry]] = {}
    for name, entry in entries.items():
        ours = _role(entry, f"{section}.{name}", side)
        if ours in out:
            raise InputError(f"config.{section}.{name}: a second module of the role {ours}")
        if ours:
            out[ours] = (str(name), entry)
    if missing := [role for role in NEEDED[side] if role not in out]:
        raise InputError(f"config.{section} has no module of the role {missing[0]}")
    return out


def _role(entry: Any, where: str, side: int) -> str:
    cls = class_of(entry, where)
    ours = ROLES.get(cls, (None, None))[side]
    if ours is None:
        raise InputError(f"config.{where} names the class {shown(cls)}, which is not known there")
    for key, value in {**NEUTRAL, "mask_mode": MASKS[side]}.items():
        if entry.get(key, value) != value:
            raise InputError(f"config.{where}.{key}={shown(entry[key])} is not supported; it must be {value}")
    along_sequence = ours == "positions" and side == 1 and len(sizes_of(entry, where)) == 1
    return "register_positions" if along_sequence else ours


def sizes_of(entry: Entry, where: str) -> tuple[int, ...]:
    """`max_sizes` of a table of positions, one or two.

    Raises:
        InputError: something else.
    """
    sizes = entry.get("max_sizes")
    good = isinstance(sizes, (list, tuple)) and 1 <= len(sizes) <= 2
    if not good or not all(type(n) is int and n > 0 for n in sizes):  # type: ignore[union-attr]
        raise InputError(f"config.{where}.max_sizes={shown(sizes)} must be one or two positive integers")
    return tuple(sizes)  # type: ignore[arg-type]
