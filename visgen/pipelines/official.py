"""Official checkpoints as components: their files found, read, converted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from visgen.checkpoints import from_official
from visgen.checkpoints.catalogue import (
    CATALOGUE,
    VAR_FID_SAMPLING,
    VAR_TOKENIZER_FILE,
    OfficialCheckpoint,
    entry_of_file,
)
from visgen.checkpoints.files import read_state_dict
from visgen.errors import InputError
from visgen.pipelines.sources import official_file

VAR_GENERATOR = re.compile(r"var_d\d+\.(pth|safetensors)")
SYSTEMS = {"tokenizer": "var-tokenizer", "generator": "var"}


@dataclass(frozen=True, eq=False)
class OfficialFiles:
    """An official checkpoint whose files are fetched when they are read.

    Attributes:
        name: alias or path, for messages.
        paths: role → function that gives the local file.
        systems: role → key of `visgen.checkpoints.OFFICIAL`.
        sampling: keywords of `TokenSampling`.
        configs: role → official configuration keys.
        card: licence and notes.
    """

    name: str
    paths: Mapping[str, Callable[[], Path]]
    systems: Mapping[str, str]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    card: dict[str, str] = field(default_factory=dict)

    @property
    def has_generator(self) -> bool:
        """Whether it can generate, not only reconstruct."""
        return "generator" in self.paths

    @classmethod
    def of_entry(cls, entry: OfficialCheckpoint, local_files_only: bool = False) -> OfficialFiles:
        """A catalogue entry, its files from `VISGEN_MODELS`, the hub's cache or the hub."""
        paths = {role: _fetcher(entry, role, local_files_only) for role in entry.files}
        return cls(entry.alias, paths, _systems(entry), entry.sampling, entry.configs, _card(entry))


def _fetcher(entry: OfficialCheckpoint, role: str, local_files_only: bool) -> Callable[[], Path]:
    return lambda: official_file(entry, role, local_files_only)


def _systems(entry: OfficialCheckpoint) -> dict[str, str]:
    return {"tokenizer": entry.tokenizer_system, "generator": entry.system}


def _card(entry: OfficialCheckpoint) -> dict[str, str]:
    return {"licence": entry.licence, "paper": entry.paper, "notes": entry.notes, "source": entry.repo_id}


def find_official(path: Path) -> OfficialFiles | None:
    """Official files at a path: a folder in the hub's layout, or a generator file beside its tokenizer.

    Raises:
        InputError: a folder with several generators, or a generator without its tokenizer.
    """
    folder = path if path.is_dir() else path.parent
    tokenizer = folder / VAR_TOKENIZER_FILE
    generator = _generator_of(path)
    if generator is None:
        return (
            _local_files(path, tokenizer, None)
            if tokenizer.is_file() and path in (folder, tokenizer)
            else None
        )
    if not tokenizer.is_file():
        raise InputError(f"{str(generator)!r} needs its tokenizer, {VAR_TOKENIZER_FILE}, in the same folder")
    return _local_files(path, tokenizer, generator)


def _generator_of(path: Path) -> Path | None:
    if not path.is_dir():
        return path if path.is_file() and VAR_GENERATOR.fullmatch(path.name) else None
    found = sorted(file for file in path.iterdir() if VAR_GENERATOR.fullmatch(file.name))
    if len(found) > 1:
        raise InputError(
            f"folder {str(path)!r} holds {', '.join(file.name for file in found)}; "
            "give the path of one of them, or set VISGEN_MODELS to the folder and load an alias "
            f"({', '.join(_aliases(found))})"
        )
    return found[0] if found else None


def _aliases(files: Iterable[Path]) -> list[str]:
    entries = [entry_of_file(file.name) for file in files]
    return [entry.alias for entry in entries if entry is not None] or list(CATALOGUE)


def _local_files(path: Path, tokenizer: Path, generator: Path | None) -> OfficialFiles:
    entry = entry_of_file(generator.name) if generator is not None else None
    paths: dict[str, Callable[[], Path]] = {"tokenizer": lambda: tokenizer}
    if generator is not None:
        paths["generator"] = lambda: generator
    sampling = VAR_FID_SAMPLING if entry is None else entry.sampling
    configs = {} if entry is None else entry.configs
    card = {} if entry is None else _card(entry)
    return OfficialFiles(str(path), paths, SYSTEMS, sampling, configs, card)


def load_official(
    files: OfficialFiles, slots: Iterable[str], dtype: torch.dtype | str | None
) -> dict[str, Any]:
    """The wanted components, converted; `dtype` None and "auto" = float32, as official VARs are stored."""
    components: dict[str, Any] = {}
    for slot in sorted(slots):  # the generator first: the tokenizer takes its scales
        config = dict(files.configs.get(slot, {}))
        if slot == "tokenizer" and "generator" in components:
            config["v_patch_nums"] = components["generator"].config.scales
        model = from_official(files.systems[slot], read_state_dict(files.paths[slot]()), config or None)
        components[slot] = model.to(dtype) if isinstance(dtype, torch.dtype) else model
    return components
