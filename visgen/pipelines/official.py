"""Official checkpoints as components: their files found, read, converted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import torch

from visgen.checkpoints import from_official
from visgen.checkpoints.catalogue import CATALOGUE, OfficialCheckpoint, entry_of_file
from visgen.checkpoints.files import read_state_dict
from visgen.checkpoints.flextok_config import read_config as read_flextok_config
from visgen.errors import InputError
from visgen.pipelines.sources import local_folder, official_file
from visgen.pipelines.text_features import TextFeatures


@dataclass(frozen=True, eq=False)
class OfficialFiles:
    """An official checkpoint whose files are fetched when they are read.

    Attributes:
        name: alias or path, for messages.
        paths: role → function that gives the local file.
        systems: role → key of `visgen.checkpoints.OFFICIAL`.
        sampling: keywords of `TokenSampling`.
        configs: role → official configuration keys.
        text: keywords of `TextFeatures`; none for models without text.
        card: licence and notes.
    """

    name: str
    paths: Mapping[str, Callable[[], Path]]
    systems: Mapping[str, str]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    card: dict[str, str] = field(default_factory=dict)

    @property
    def pipeline(self) -> str:
        """The pipeline it was made for, a name of `PIPELINES`."""
        if "generator" not in self.paths:
            return "ReconstructPipeline"
        return "TextToImagePipeline" if self.text else "ClassToImagePipeline"

    @classmethod
    def of_entry(cls, entry: OfficialCheckpoint, local_files_only: bool = False) -> OfficialFiles:
        """A catalogue entry, its files from `VISGEN_MODELS`, the hub's cache or the hub."""
        paths = {role: _fetcher(entry, role, local_files_only) for role in entry.files}
        return cls(
            entry.alias, paths, _systems(entry), entry.sampling, entry.configs, entry.text, _card(entry)
        )


def _fetcher(entry: OfficialCheckpoint, role: str, local_files_only: bool) -> Callable[[], Path]:
    return lambda: official_file(entry, role, local_files_only)


def _systems(entry: OfficialCheckpoint) -> dict[str, str]:
    return {"tokenizer": entry.tokenizer_system, "generator": entry.system}


def _card(entry: OfficialCheckpoint) -> dict[str, str]:
    return {"licence": entry.licence, "paper": entry.paper, "notes": entry.notes, "source": entry.repo_id}


def find_official(path: Path) -> OfficialFiles | None:
    """Official files at a path: a folder in the hub's layout, or one of its files, as published or as
    safetensors.

    Raises:
        InputError: a folder with several models, or a generator without its tokenizer.
    """
    if (flextok := _flextok_at(path)) is not None:
        return _local_files(path, *flextok)
    found = _models_in(path) if path.is_dir() else _model_of(path)
    if not found:
        return None
    if len(found) > 1:
        names = ", ".join(file.name for _, file in found)
        aliases = ", ".join(entry.alias for entry, _ in found)
        raise InputError(
            f"folder {str(path)!r} holds {names}; give the path of one of them, or set VISGEN_MODELS to the "
            f"folder and load an alias ({aliases})"
        )
    return _local_files(path, *found[0])


def _flextok_at(path: Path) -> tuple[OfficialCheckpoint, Path] | None:
    """A FlexTok, told by its configuration: its file has the name that a thousand repositories use."""
    entries = [entry for entry in CATALOGUE.values() if entry.system == "flextok"]
    file = path / entries[0].files["tokenizer"] if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file() or read_flextok_config(file) is None:
        return None
    known = [entry for entry in entries if PurePath(entry.repo_id).name in file.resolve().parts]
    unknown = replace(
        entries[0], alias="flextok", repo_id="EPFL-VILAB", notes="a FlexTok of the official layout"
    )
    return known[0] if known else unknown, file


def _models_in(folder: Path) -> list[tuple[OfficialCheckpoint, Path]]:
    """Entries whose generator lies in a folder; where none does, those whose tokenizer does."""
    for role in ("generator", "tokenizer"):
        entries = [entry for entry in _named() if role == "generator" or len(entry.files) == 1]
        files = [(entry, _file_in(folder, entry, role)) for entry in entries]
        if found := [(entry, file) for entry, file in files if file is not None]:
            return sorted(found, key=lambda pair: pair[1].name)
    return []


def _model_of(file: Path) -> list[tuple[OfficialCheckpoint, Path]]:
    """The entry that a file belongs to; of a tokenizer, the one that has nothing else."""
    for name in (str(file), file.name):
        for role, entries in (("generator", None), ("tokenizer", _alone())):
            entry = entry_of_file(name, role, entries)
            if entry is not None and file.is_file():
                return [(entry, file)]
    return []


def _named() -> list[OfficialCheckpoint]:
    """Entries that are told by the names of their files."""
    return [entry for entry in CATALOGUE.values() if entry.system != "flextok"]


def _alone() -> list[OfficialCheckpoint]:
    return [entry for entry in _named() if list(entry.files) == ["tokenizer"]]


def _file_in(folder: Path, entry: OfficialCheckpoint, role: str) -> Path | None:
    """A file of an entry in a folder of the hub's layout, or directly in it."""
    if role not in entry.files:
        return None
    name = PurePath(entry.files[role])
    names = [name.with_suffix(".safetensors"), name]
    places = [folder / one for one in names] + [folder / one.name for one in names]
    return next((place for place in places if place.is_file()), None)


def _local_files(path: Path, entry: OfficialCheckpoint, file: Path) -> OfficialFiles:
    """The files of an entry, one of which is at `file`."""
    own = "generator" if "generator" in entry.files else "tokenizer"
    paths: dict[str, Callable[[], Path]] = {own: lambda: file}
    if own == "generator":
        tokenizer = _beside(file, entry)
        paths["tokenizer"] = lambda: tokenizer
    systems, card = _systems(entry), _card(entry)
    return OfficialFiles(str(path), paths, systems, entry.sampling, entry.configs, entry.text, card)


def _beside(generator: Path, entry: OfficialCheckpoint) -> Path:
    """The tokenizer of a generator's file: in the same folder, or where the hub's layout has it.

    Raises:
        InputError: it is not there.
    """
    depth = len(PurePath(entry.files["generator"]).parts)
    for folder in (generator.parent, *generator.parents[depth - 1 : depth]):
        if (found := _file_in(folder, entry, "tokenizer")) is not None:
            return found
    raise InputError(
        f"{str(generator)!r} needs its tokenizer, {entry.files['tokenizer']}, in the same folder"
    )


def load_official(
    files: OfficialFiles, slots: Iterable[str], dtype: torch.dtype | str | None
) -> dict[str, Any]:
    """The wanted components, converted; `dtype` None and "auto" = float32, as official weights are stored."""
    components: dict[str, Any] = {}
    for slot in sorted(slots):  # the generator first: VAR's tokenizer takes its scales
        if slot == "text":
            components[slot] = text_features(files)
            continue
        config = dict(files.configs.get(slot, {}))
        if files.systems[slot] == "var-tokenizer" and "generator" in components:
            config["v_patch_nums"] = components["generator"].config.scales
        file = files.paths[slot]()
        if files.systems[slot] == "flextok":
            config |= read_flextok_config(file) or {}
        model = from_official(files.systems[slot], read_state_dict(file), config or None)
        components[slot] = model.to(dtype) if isinstance(dtype, torch.dtype) else model
    return components


def text_features(files: OfficialFiles) -> TextFeatures | None:
    """The text encoder of a model, from `VISGEN_MODELS` if its folder is there; None for models without."""
    if not files.text:
        return None
    options = dict(files.text)
    folder = local_folder(options["encoder"])
    return TextFeatures(**options | ({"encoder": str(folder)} if folder is not None else {}))
