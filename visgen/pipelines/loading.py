"""`visgen.load`: an alias, a folder or a hub id becomes a pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from visgen.checkpoints.catalogue import CATALOGUE, OfficialCheckpoint, aliases_of_repo
from visgen.errors import InputError, UnknownNameError, shown
from visgen.pipelines import PIPELINES, TASKS, TASKS_OF
from visgen.pipelines.answer_models import AnswerFolder, find_answer_model, load_answer_model
from visgen.pipelines.base import ImagePipeline, Pipeline, all_slots, required_slots
from visgen.pipelines.model_index import INDEX_NAME, load_component, read_index
from visgen.pipelines.official import OfficialFiles, find_official, load_official
from visgen.pipelines.options import parse_dtype
from visgen.pipelines.seed_llama import SeedLlamaFolder, find_seed_llama, is_seed_llama, load_seed_llama
from visgen.pipelines.sources import HUB_ID, hub_folder, models_folder
from visgen.pipelines.transformers_models import TransformersFolder, find_transformers, load_transformers
from visgen.registry import nearest
from visgen.shipped import assets_folder, shipped_models

MAX_NAME_BYTES = 4095  # of a path, on Linux
INTERLEAVED = "InterleavedPipeline"  # its image spans draw as text-to-image pipelines do
ANSWER = "AnswerPipeline"
Source = Path | OfficialFiles | TransformersFolder | SeedLlamaFolder | AnswerFolder


def load(
    name: str | os.PathLike[str],
    task: str | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    local_files_only: bool = False,
) -> ImagePipeline:
    """Load a model as a pipeline.

    Args:
        name: a shipped model ("scenes-var"), an official one ("var-d16"), a local folder in our format or in
            the layout of the official hub repository, or a hub id ("org/name") in our format.
            `visgen.models()` lists names.
        task: a name of `visgen.pipelines.TASKS`, such as "text-to-image" or "caption"; None = what the model
            was made for. Only the components that the task uses are read.
        dtype: None = float32, "auto" = as stored, a torch dtype or its name ("bfloat16", "bf16", …).
        device: where to put it; None = the CPU.
        local_files_only: never download.

    Raises:
        InputError: an unknown name (with the nearest ones), a model that cannot do the task, bad files.
    """
    cls: type[ImagePipeline] = ImagePipeline if task is None else _pipeline_of(task)
    return load_as(cls, name, dtype=dtype, device=device, local_files_only=local_files_only)


def _pipeline_of(task: str) -> type[ImagePipeline]:
    if task not in TASKS:
        raise UnknownNameError(f"unknown task {task!r}: {nearest(str(task), list(TASKS))}")
    return PIPELINES.load(TASKS[task])


def load_as(
    cls: type[Pipeline],
    name: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    local_files_only: bool = False,
) -> Pipeline:
    """Load a model as a pipeline of class `cls`; `ImagePipeline` itself stands for the model's own."""
    dtype = parse_dtype(dtype)
    source = find(name, local_files_only)
    if isinstance(source, OfficialFiles):
        pipe = _load_official(cls, source, dtype)
    elif isinstance(source, TransformersFolder):
        pipe = _load_transformers(cls, source, dtype)
    elif isinstance(source, SeedLlamaFolder):
        pipe = _load_seed_llama(cls, source, dtype)
    elif isinstance(source, AnswerFolder):
        pipe = _load_answer_model(cls, source, dtype)
    else:
        pipe = _load_folder(cls, source, dtype)
    pipe.register_to_config(_name_or_path=os.fspath(name))
    return pipe if device is None else pipe.to(device)


def find(name: str | os.PathLike[str], local_files_only: bool = False) -> Source:
    """Where a model is: a folder in our format (a hub repository is downloaded), or official files.

    Raises:
        InputError: nothing of that name.
    """
    text = os.fspath(name)
    if not text.strip():
        raise InputError(f"name is empty ({text!r}); give an alias, a folder or a hub id")
    if "\0" in text or len(os.fsencode(text)) > MAX_NAME_BYTES:
        raise InputError(f"name={shown(text)} names nothing; give an alias, a folder or a hub id")
    if text in shipped_models():
        return assets_folder() / text
    root = models_folder()
    if root is not None and os.path.isfile(root / text / INDEX_NAME):
        return root / text
    if text in CATALOGUE:
        return _kind(CATALOGUE[text]).of_entry(CATALOGUE[text], local_files_only)
    path = Path(os.path.expanduser(text))
    if os.path.exists(path):
        return _local(path)
    return _hub(text, local_files_only)


def _kind(entry: OfficialCheckpoint) -> type[OfficialFiles | TransformersFolder | SeedLlamaFolder]:
    if is_seed_llama(entry):
        return SeedLlamaFolder
    return OfficialFiles if entry.files else TransformersFolder


def _local(path: Path) -> Source:
    if (path / INDEX_NAME).is_file():
        return path
    transformers = find_transformers(path) or find_seed_llama(path) or find_answer_model(path)
    official = transformers or find_official(path)
    if official is None:
        raise InputError(
            f"{str(path)!r} is no model: it has no {INDEX_NAME} and no files of an official checkpoint; "
            "give a folder written by save_pretrained or downloaded from the official repository"
        )
    return official


def _hub(name: str, local_files_only: bool) -> Source:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if looks_local or not HUB_ID.fullmatch(name):
        kind = "folder" if "/" in name else "model"
        raise UnknownNameError(
            f"unknown {kind} {shown(name)}: {nearest(name, [*shipped_models(), *CATALOGUE])}"
        )
    aliases = aliases_of_repo(name)
    if aliases:
        raise InputError(f"{name!r} holds several models; load one by its alias: {', '.join(aliases)}")
    folder = hub_folder(name, local_files_only)
    if not (folder / INDEX_NAME).is_file():
        if (model := find_transformers(folder) or find_answer_model(folder)) is not None:
            return model
        raise InputError(
            f"{name!r} on the hub has no {INDEX_NAME}; give a repository written by save_pretrained"
        )
    return folder


def _load_folder(cls: type[Pipeline], folder: Path, dtype: Any) -> Pipeline:
    index = read_index(folder)
    cls = _choose(cls, index.class_name, folder.name)
    if index.class_name == INTERLEAVED and cls.__name__ == TASKS["text-to-image"]:
        return _load_folder(PIPELINES.load(INTERLEAVED), folder, dtype).drawer()
    components = {
        slot: load_component(folder, slot, component, dtype)
        for slot, component in index.components.items()
        if slot in all_slots(cls)
    }
    pipe = cls.from_components(components, index.sampling)
    pipe.card = dict(index.card)
    return pipe


def _load_official(cls: type[Pipeline], files: OfficialFiles, dtype: Any) -> Pipeline:
    cls = _choose(cls, files.pipeline, files.name)
    slots = {*required_slots(cls), *({"text"} & set(all_slots(cls)) if files.text else ())}
    components: Mapping[str, Any] = load_official(files, slots, dtype)
    pipe = cls.from_components(components, files.sampling)
    pipe.card = files.card
    return pipe


def _load_transformers(cls: type[Pipeline], source: TransformersFolder, dtype: Any) -> Pipeline:
    cls = _choose(cls, "TextToImagePipeline", source.name)
    components, sampling = load_transformers(source, all_slots(cls), dtype)
    pipe = cls.from_components(components, sampling)
    pipe.card = dict(source.card)
    return pipe


def _load_seed_llama(cls: type[Pipeline], source: SeedLlamaFolder, dtype: Any) -> Pipeline:
    cls = _choose(cls, INTERLEAVED, source.name)
    if cls.__name__ == TASKS["text-to-image"]:
        return _load_seed_llama(PIPELINES.load(INTERLEAVED), source, dtype).drawer()
    pipe = cls.from_components(load_seed_llama(source, all_slots(cls), dtype), source.sampling)
    pipe.card = dict(source.card)
    return pipe


def _load_answer_model(cls: type[Pipeline], source: AnswerFolder, dtype: Any) -> Pipeline:
    cls = _choose(cls, ANSWER, source.name)
    return cls.from_components(load_answer_model(source, dtype))


def _choose(cls: type[Pipeline], own: str, name: str) -> type[Pipeline]:
    """The class to build: the model's own, or the one asked for if the model's components can do it."""
    if cls is ImagePipeline:
        return PIPELINES.load(own)
    possible = {TASKS[task] for task in TASKS_OF[own]}
    wanted = next((base.__name__ for base in cls.__mro__ if base.__name__ in TASKS_OF), cls.__name__)
    if wanted not in possible:
        task = next((task for task, pipeline in TASKS.items() if pipeline == wanted), wanted)
        raise InputError(f"model {name!r} cannot do {task}; it can do {', '.join(TASKS_OF[own])}")
    return cls
