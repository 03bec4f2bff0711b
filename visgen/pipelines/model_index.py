"""`model_index.json`: which classes of ours a folder is made of. A file names, our registries decide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import visgen
from visgen.errors import InputError, shown
from visgen.generators import DRAFTERS, GENERATORS
from visgen.nn.model import VisgenModel, read_json
from visgen.pipelines import LANGUAGE_MODELS, PIPELINES, TEXTS, VISION_LANGUAGE_MODELS
from visgen.registry import Registry
from visgen.shipped import shared_folder
from visgen.tokenizers import RENDERERS, TOKENIZERS

INDEX_NAME = "model_index.json"
SCHEMA = 1
LIBRARY = "visgen"
SLOTS: dict[str, Registry] = {
    "tokenizer": TOKENIZERS,
    "generator": GENERATORS,
    "text": TEXTS,
    "drafter": DRAFTERS,
    "renderer": RENDERERS,
    "language_model": LANGUAGE_MODELS,
    "vision_language_model": VISION_LANGUAGE_MODELS,
}


@dataclass(frozen=True)
class Component:
    """A part of a model: a class of our registries, and the shipped folder it is shared from, if any."""

    class_name: str
    shared: str | None = None


@dataclass(frozen=True)
class ModelIndex:
    """The content of a `model_index.json`.

    Attributes:
        class_name: pipeline, a name of `PIPELINES`.
        components: slot, a name of `SLOTS` → component.
        sampling: the model's default sampling, keywords of its family's dataclass.
        card: what people want to know: licence, recipe, parity, notes.
    """

    class_name: str
    components: Mapping[str, Component]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Text of the file."""
        head = {"_class_name": self.class_name, "visgen_version": visgen.__version__, "schema": SCHEMA}
        slots = {name: _entry(component) for name, component in self.components.items()}
        extra = {"sampling": dict(self.sampling)} | ({"card": dict(self.card)} if self.card else {})
        return json.dumps(head | slots | extra, indent=2, ensure_ascii=False) + "\n"


def _entry(component: Component) -> list[str]:
    return [LIBRARY, component.class_name] + ([component.shared] if component.shared else [])


def read_index(folder: Path) -> ModelIndex:
    """Read and check the index of a folder. Instantiates nothing and imports no model.

    Raises:
        InputError: no index, broken JSON, another schema, or a name that no registry of ours holds.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise InputError(
            f"folder {str(folder)!r} has no {INDEX_NAME}; give a folder written by save_pretrained"
        )
    data = read_json(path)
    if data.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has schema {shown(data.get('schema'))}; "
            f"this version reads schema {SCHEMA}, written by save_pretrained"
        )
    return _checked(data, path)


def _checked(data: dict[str, Any], path: Path) -> ModelIndex:
    if str(data.get("_class_name")) not in PIPELINES:
        known = ", ".join(PIPELINES.names())
        name = shown(data.get("_class_name"))
        raise InputError(f"{path} names the pipeline {name}; it must be one of {known}")
    reserved = {"_class_name", "visgen_version", "schema", "sampling", "card"}
    components = {slot: _component(slot, entry, path) for slot, entry in data.items() if slot not in reserved}
    sampling, card = data.get("sampling") or {}, data.get("card") or {}
    if not isinstance(sampling, dict) or not isinstance(card, dict):
        raise InputError(f"{path}: sampling and card must be objects")
    return ModelIndex(data["_class_name"], components, sampling, card)


def _component(slot: str, entry: Any, path: Path) -> Component:
    if slot not in SLOTS:
        raise InputError(f"{path} has an unknown component {shown(slot)}; components are {', '.join(SLOTS)}")
    texts = isinstance(entry, list) and len(entry) in (2, 3) and all(isinstance(part, str) for part in entry)
    if not texts or entry[0] != LIBRARY or entry[1] not in SLOTS[slot]:
        known = ", ".join(SLOTS[slot].names())
        raise InputError(
            f"{path} gives {shown(entry)} as {slot}; it must be ['visgen', NAME] with NAME one of {known}"
        )
    shared = entry[2] if len(entry) == 3 else None
    if shared is not None:
        shared_folder(shared)
    return Component(entry[1], shared)


def load_component(folder: Path, slot: str, component: Component, dtype: Any) -> Any:
    """Instantiate one component from its subfolder or the shared one; models as `dtype` and in eval mode."""
    cls = SLOTS[slot].load(component.class_name)
    source = folder / slot if component.shared is None else shared_folder(component.shared)
    return cls.from_pretrained(source) if slot == "text" else cls.from_pretrained(source, dtype=dtype)


def register_component(slot: str, module: Any, reference: str | None = None) -> Component:
    """The entry of a module, checked: its class must be ours; `reference` = the shipped folder to share."""
    cls = type(getattr(module, "_orig_mod", module))  # torch.compile wraps the model
    if cls.__name__ not in SLOTS[slot] or SLOTS[slot].load(cls.__name__) is not cls:
        known = ", ".join(SLOTS[slot].names())
        raise InputError(f"{slot} of class {cls.__name__} cannot be saved; it must be one of {known}")
    if reference is not None:
        shared_folder(reference)
    return Component(cls.__name__, reference)


def save_component(
    module: Any, folder: Path, dtype: torch.dtype | None, shared: Mapping[str, str] | None = None
) -> None:
    """Write a component's folder; the weights of models as `dtype`, or as they are, and without those of
    `shared` submodules (name → "MODEL/COMPONENT")."""
    module = getattr(module, "_orig_mod", module)
    if isinstance(module, VisgenModel):
        module.save_pretrained(folder, dtype=dtype, shared=shared)
    elif shared:
        raise InputError(
            f"shared parts {', '.join(shared)} of a {type(module).__name__} cannot be referred to"
        )
    elif isinstance(module, torch.nn.Module):
        module.save_pretrained(folder, dtype=dtype)  # type: ignore[operator]
    else:
        module.save_pretrained(folder)
