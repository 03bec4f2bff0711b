"""`visgen info`: what a picture says about its making."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visgen.cli.console import note, say


def info(images: Annotated[list[Path], typer.Argument(metavar="IMAGE.png…", show_default=False)]) -> None:
    """Print what pictures say about their making: prompt, seed, model, settings."""
    from visgen.data.images import read_png_metadata

    for image in images:
        metadata = read_png_metadata(image)
        if len(images) > 1:
            say(f"{image}:")
        if not metadata:
            note(f"{image} carries no metadata")
        for name, text in metadata.items():
            say(f"{name}: {text}")
