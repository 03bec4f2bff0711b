"""Where the files of a model are: a local folder, `VISGEN_MODELS`, or the hub."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from visgen.checkpoints.catalogue import OfficialCheckpoint
from visgen.errors import InputError, shown

logger = logging.getLogger(__name__)

MODELS_VARIABLE = "VISGEN_MODELS"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # never pickles or code


def models_folder() -> Path | None:
    """The folder that `VISGEN_MODELS` names, searched before the hub; None when it is unset.

    Raises:
        InputError: it names no folder.
    """
    value = os.environ.get(MODELS_VARIABLE)
    if not value:
        return None
    folder = Path(os.path.expanduser(value))
    if not os.path.isdir(folder):
        raise InputError(
            f"{MODELS_VARIABLE}={shown(value)} is no folder; name the one that holds your models, or unset it"
        )
    return folder


def local_folder(repo_id: str) -> Path | None:
    """The folder of a hub repository in `VISGEN_MODELS`, named ORG/NAME or NAME; None when there is none."""
    root = models_folder()
    places = [] if root is None else [root / repo_id, root / PurePath(repo_id).name]
    return next((place for place in places if place.is_dir()), None)


def official_file(entry: OfficialCheckpoint, role: str, local_files_only: bool = False) -> Path:
    """Local path of one file of an official checkpoint, downloaded if it has to be.

    Looked for in `VISGEN_MODELS`, in its subfolders ALIAS and REPOSITORY, in the hub's cache, on the hub.

    Raises:
        InputError: it is nowhere.
    """
    name, root = entry.files[role], models_folder()
    if root is not None:
        for place in (root, root / entry.alias, root / entry.repo_of(role)):
            if (place / name).is_file():
                return place / name

    def fetch(local_files_only: bool) -> str:
        return _download_file(entry, entry.repo_of(role), name, local_files_only)

    return _from_hub(fetch, entry.alias, entry.about, local_files_only)


def _download_file(entry: OfficialCheckpoint, repo_id: str, name: str, local_files_only: bool) -> str:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if not local_files_only and not isinstance(try_to_load_from_cache(repo_id, name), str):
        logger.warning("fetching %s of %s: %s", name, entry.alias, entry.about)
    return hf_hub_download(repo_id, name, local_files_only=local_files_only)


def hub_folder(repo_id: str, local_files_only: bool = False) -> Path:
    """Local snapshot of a hub repository in our format; only JSON, text and safetensors are fetched.

    Raises:
        InputError: it is not there, or cannot be reached.
    """

    def fetch(local_files_only: bool) -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(repo_id, allow_patterns=WANTED, local_files_only=local_files_only)

    return _from_hub(fetch, repo_id, "a hub repository; its page tells size and licence", local_files_only)


def hub_files(repo_id: str, local_files_only: bool = False, patterns: Sequence[str] = ()) -> Path:
    """Local folder of a hub repository that a model needs beside its own.

    Looked for in `VISGEN_MODELS` (ORG/NAME or NAME), in the hub's cache, on the hub; `patterns` = files to
    fetch beyond JSON, text and safetensors.

    Raises:
        InputError: it is nowhere.
    """
    if (folder := local_folder(repo_id)) is not None:
        return folder

    def fetch(local_files_only: bool) -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(
            repo_id, allow_patterns=[*WANTED, *patterns], local_files_only=local_files_only
        )

    return _from_hub(fetch, repo_id, "a hub repository; its page tells size and licence", local_files_only)


def official_folder(
    entry: OfficialCheckpoint, local_files_only: bool = False, patterns: Sequence[str] = ()
) -> Path:
    """Local folder of an official checkpoint that is read whole.

    Looked for in `VISGEN_MODELS` (ALIAS, ORG/NAME or NAME), in the hub's cache, on the hub; `patterns` =
    files to fetch beyond JSON, text and safetensors.

    Raises:
        InputError: it is nowhere.
    """
    root = models_folder()
    if root is not None and (root / entry.alias / "config.json").is_file():
        return root / entry.alias
    if (folder := local_folder(entry.repo_id)) is not None:
        return folder

    def fetch(local_files_only: bool) -> str:
        from huggingface_hub import snapshot_download

        if not local_files_only:
            logger.warning("fetching %s unless it is cached: %s", entry.alias, entry.about)
        return snapshot_download(
            entry.repo_id, allow_patterns=[*WANTED, *patterns], local_files_only=local_files_only
        )

    return _from_hub(fetch, entry.alias, entry.about, local_files_only)


def _from_hub(fetch: Callable[[bool], str], name: str, about: str, local_files_only: bool) -> Path:
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return Path(fetch(local_files_only))
    except (OSError, EntryNotFoundError, HFValidationError) as error:  # the hub's other errors are OSErrors
        raise InputError(
            f"{name!r} ({about}) is not on this machine and could not be fetched "
            f'({_reason(error, local_files_only)}); give a local folder, visgen.load("path/to/folder"), '
            f"or set {MODELS_VARIABLE} to the folder of its files"
        ) from error


def _reason(error: Exception, local_files_only: bool) -> str:
    """Why, in a few words; the hub's own messages run over many lines."""
    from huggingface_hub import constants, errors

    if local_files_only:
        return "local_files_only=True"
    if constants.HF_HUB_OFFLINE or isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.GatedRepoError):
        return "the repository asks you to accept its terms first"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the hub cannot be reached"
    return f"{type(error).__name__}: {(str(error).strip() or 'no details').splitlines()[0]}"
