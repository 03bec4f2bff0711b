"""From the patches of a tower's tiles to the entries of an image's view, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.pruning.views import ImageView, TowerView


def tower_of(view: ImageView, method: str) -> TowerView:
    """The tower's view, for a method that reads patches.

    Raises:
        InputError: scope="sample" with several images, or patches that were merged before.
    """
    if view.tower is None:
        raise InputError(f"{method} reads one image's patches at a time; use scope='image'")
    if view.changed:
        raise InputError(
            f"{method} reads the patches of the vision tower, which an earlier part merged; put it first"
        )
    return view.tower


def patch_entries(view: ImageView, tower: TowerView) -> Tensor:
    """(T · N,) int64: the entry of the view that shows each patch of all tiles; −1 = none."""
    entry_P = view.slots_N.new_full((tower.hidden_TNC.shape[:2].numel(),), -1)
    patch_E = tower.patch_N.to(view.slots_N.device)[view.slots_N]
    shown = patch_E >= 0
    entry_P[patch_E[shown]] = shown.nonzero()[:, 0]
    return entry_P


def line_ends(view: ImageView, tower: TowerView) -> Tensor:
    """Entries that end a row of the canvas, int64."""
    return (tower.patch_N.to(view.slots_N.device)[view.slots_N] < 0).nonzero()[:, 0]


def all_entries(view: ImageView) -> Tensor:
    """0 … N − 1."""
    return torch.arange(len(view), device=view.slots_N.device)


def check_patches(tower: TowerView, method: str) -> None:
    """Refuse towers without CLS, and those whose projector pools patches.

    Raises:
        InputError: naming what the method needs.
    """
    if not tower.has_cls or tower.hidden_TNC.shape[1] != tower.keys_TLC.shape[1] - 1:
        raise InputError(
            f"{method} needs a vision tower with a CLS token and one token per patch, as CLIP in LLaVA and "
            "LLaVA-NeXT; for others use divprune, cls or tokencorr"
        )
