"""The models that ship with the package: folders of `visgen/assets` with a `model_index.json`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def assets_folder() -> Path:
    """Where shipped models lie."""
    return Path(str(resources.files("visgen"))) / "assets"


def shipped_models() -> list[str]:
    """Names of the shipped models, sorted."""
    folder = assets_folder()
    return sorted(path.parent.name for path in folder.glob("*/model_index.json")) if folder.is_dir() else []
