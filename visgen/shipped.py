"""The models that ship with the package, folders of `visgen/assets` with a `model_index.json`, and what other
models share with them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path, PurePosixPath

from visgen.errors import InputError, shown


def assets_folder() -> Path:
    """Where shipped models lie."""
    return Path(str(resources.files("visgen"))) / "assets"


def shipped_models() -> list[str]:
    """Names of the shipped models, sorted."""
    folder = assets_folder()
    return sorted(path.parent.name for path in folder.glob("*/model_index.json")) if folder.is_dir() else []


def shared_folder(reference: str) -> Path:
    """Folder of a component that another shipped model holds; never outside `visgen/assets`.

    Raises:
        InputError: the reference is not MODEL/COMPONENT, leads elsewhere, or does not exist.
    """
    parts = PurePosixPath(reference).parts
    assets = assets_folder()
    plain = len(parts) == 2 and ".." not in parts and "/" not in parts
    plain = plain and not any(character in reference for character in "\\:\0")
    folder = assets.joinpath(*parts) if plain else None
    if folder is None or not folder.resolve().is_relative_to(assets.resolve()):
        raise InputError(
            f"shared component {shown(reference)} must be MODEL/COMPONENT of a model that ships with visgen"
        )
    if not folder.is_dir():
        raise InputError(f"shared component {reference!r} is not among the models that ship with this visgen")
    return folder
