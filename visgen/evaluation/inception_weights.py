"""Where the weights of the FID Inception are: a path, torch hub's cache, or torch-fidelity's release."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from visgen.errors import InputError

logger = logging.getLogger(__name__)

NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAME}"
HASH = "6726825d"  # first digits of its SHA-256
SIZE = "91 MB, Apache-2.0"
OTHER_NAMES = ("pt_inception-2015-12-05-6726825d.pth",)  # the same file as pytorch-fid publishes it


def find_inception_weights(path: Path | None, offline: bool = False) -> Path:
    """Path of the weights; downloaded into torch hub's cache when they are nowhere and `offline` is False.

    Raises:
        InputError: `path` is no file; or nothing is cached and nothing can be fetched.
    """
    if path is not None:
        if not path.is_file():
            raise InputError(f"--inception-weights {str(path)!r} is no file; give the path of {NAME}")
        return path
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in (NAME, *OTHER_NAMES):
        if (folder / name).is_file():
            return folder / name
    if offline:
        raise InputError(_missing("--offline"))
    return _download(folder / NAME)


def _download(target: Path) -> Path:
    logger.warning("fetching %s (%s)", URL, SIZE)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(target), hash_prefix=HASH, progress=False)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        raise InputError(_missing(str(error))) from error
    return target


def _missing(reason: str) -> str:
    return (
        f"the Inception weights of protocols adm and clean are not here and could not be fetched ({reason}); "
        f"give --inception-weights PATH of {NAME}, or use --protocol scenes for scenes"
    )
