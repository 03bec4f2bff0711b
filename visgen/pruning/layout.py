"""Where the images stand in a batch of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.pruning.encoding import Encoded, Entry
from visgen.pruning.views import Modality


@dataclass(frozen=True, eq=False)
class Placed:
    """One image in a prompt.

    Attributes:
        positions_N: int64, ascending, its places in the row.
        entries: what the model made of it; several tiles only where tiles are entries of their own.
    """

    modality: Modality
    positions_N: Tensor
    entries: tuple[Entry, ...]


def place_images(
    ids_BL: Tensor, tokens: Mapping[str, int], encoded: Mapping[str, Encoded], tiles_join: bool
) -> list[list[Placed]]:
    """The images of each row, in the order of the prompt.

    Args:
        ids_BL: prompts.
        tokens: modality → id of its placeholders.
        encoded: modality → its entries, in the order of the prompts. Rows may be repeated against them, row
            by row, as `generate` does for beams.
        tiles_join: whether entries are tiles, which make one image where their places are neighbours.

    Raises:
        InputError: entries and placeholders that do not fit each other.
    """
    rows: list[list[Placed]] = [[] for _ in ids_BL]
    for modality, token in tokens.items():
        mask_BL = ids_BL == token
        if modality in encoded and bool(mask_BL.any()):
            for row, images in enumerate(_place(mask_BL, modality, encoded[modality].entries, tiles_join)):  # type: ignore[arg-type]
                rows[row] += images
    return [sorted(images, key=lambda image: int(image.positions_N[0])) for images in rows]


def _place(
    mask_BL: Tensor, modality: Modality, entries: Sequence[Entry], tiles_join: bool
) -> list[list[Placed]]:
    total, known = int(mask_BL.sum()), sum(entry.num_slots for entry in entries)
    repeats = total // max(known, 1)
    if repeats * known != total or len(mask_BL) % max(repeats, 1):
        raise InputError(
            f"input_ids holds {total} {modality} tokens, but {known} {modality} features came with it; "
            "give the prompt and the pictures of one call of the processor"
        )
    rows, left = [], list(entries)
    for mask_L in mask_BL[::repeats]:
        places = mask_L.nonzero().squeeze(1)
        images = _one_row(places, modality, left)
        rows += [_joined(images) if tiles_join else images] * repeats
    return rows


def _one_row(places: Tensor, modality: Modality, left: list[Entry]) -> list[Placed]:
    """Images of one row; takes their entries off `left`."""
    images = []
    while len(places):
        entry = left.pop(0)
        images.append(Placed(modality, places[: entry.num_slots], (entry,)))
        places = places[entry.num_slots :]
    return images


def _joined(tiles: Sequence[Placed]) -> list[Placed]:
    images: list[Placed] = []
    for tile in tiles:
        if images and int(images[-1].positions_N[-1]) + 1 == int(tile.positions_N[0]):
            last = images.pop()
            positions = torch.cat([last.positions_N, tile.positions_N])
            images.append(Placed(tile.modality, positions, last.entries + tile.entries))
        else:
            images.append(tile)
    return images
