"""How LLaVA-NeXT lays tiles out as a sequence, as the model's own `pack_image_features` tells it.

The thumbnail comes first, then the crops on a canvas, cut to the image, each row with a line end. Handing the
model numbers in place of features shows which patch stands where, whatever rounding its version does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visgen.pruning.undo import Undo


@dataclass(frozen=True, eq=False)
class Packed:
    """The sequence of one image, or of one tile where tiles are not packed.

    Attributes:
        num_tiles: thumbnail and crops.
        patch_N: for each place its patch, numbered over all tiles; −1 for line ends.
        image_size: (height, width) in pixels.
        canvas: (rows, columns) of crops; (1, 1) for one tile.
        flat_M, slots_M: where a merge in the tower left fewer patches: which of them (numbered over all
            tiles) have a place, and which place. None without a merge.
    """

    num_tiles: int
    patch_N: Tensor
    image_size: tuple[int, int] | None = None
    canvas: tuple[int, int] = (1, 1)
    flat_M: Tensor | None = None
    slots_M: Tensor | None = None


class Packing:
    """Watches `pack_image_features`, and stands in for it where a merge left tiles that are no grid.

    Attributes:
        images: the sequences of the last call.
        source_TM: set while a merge is under way: for each patch left the patch whose place it takes.
        patches: patches of a tile before the merge.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        self.original = base.pack_image_features
        self.images: list[Packed] = []
        self.source_TM: Tensor | None = None
        self.patches = 0

    def attach(self, undo: Undo) -> None:
        """Put the override in place."""
        undo.override(self.base, "pack_image_features", self._pack)

    def _pack(
        self,
        image_features: Sequence[Tensor],
        image_sizes: Any,
        vision_feature_select_strategy: str,
        image_newline: Tensor | None = None,
    ) -> Any:
        tiles = [len(features) for features in image_features]
        patches = image_features[0].shape[1] if self.source_TM is None else self.patches
        device = image_features[0].device
        patch_maps = self._patch_maps(tiles, patches, image_sizes, vision_feature_select_strategy, device)
        sizes = [(int(height), int(width)) for height, width in image_sizes]
        self.images = [
            Packed(count, patch_N, size, self._canvas(count, size))
            for count, patch_N, size in zip(tiles, patch_maps, sizes, strict=True)
        ]
        if self.source_TM is None:
            return self.original(image_features, image_sizes, vision_feature_select_strategy, image_newline)
        return self._pack_merged(image_features, self.source_TM)

    def _patch_maps(
        self, tiles: Sequence[int], patches: int, sizes: Any, strategy: str, device: torch.device
    ) -> list[Tensor]:
        """The model's layout of patch numbers; float32 holds integers up to 2^24."""
        numbers = [
            torch.arange(count * patches, dtype=torch.float32, device=device).view(count, patches, 1)
            for count in tiles
        ]
        laid_out, _ = self.original(numbers, sizes, strategy, torch.full((1,), -1.0, device=device))
        return [one.squeeze(-1).long() for one in laid_out]

    def _canvas(self, tiles: int, size: tuple[int, int]) -> tuple[int, int]:
        if tiles == 1:
            return (1, 1)
        config, module = self.base.config, sys.modules[type(self.base).__module__]
        shape = module.get_anyres_image_grid_shape(  # type: ignore[attr-defined]
            size, config.image_grid_pinpoints, config.vision_config.image_size
        )
        return int(shape[0]), int(shape[1])

    def _pack_merged(
        self, image_features: Sequence[Tensor], source_TM: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Tiles one after another; patches whose place is padding are left out, zeros fill up what is
        missing."""
        packed, tile = [], 0
        for index, (features, image) in enumerate(zip(image_features, self.images, strict=True)):
            source_TM_image = source_TM[tile : tile + len(features)]
            tile += len(features)
            self.images[index] = image = _placed(image, source_TM_image, self.patches)
            rows = features.flatten(0, 1)[image.flat_M]
            packed.append(torch.cat([rows, rows.new_zeros(len(image.patch_N) - len(rows), rows.shape[1])]))
        return packed, torch.tensor([len(rows) for rows in packed], device=packed[0].device)


def _placed(image: Packed, source_TM: Tensor, patches: int) -> Packed:
    """The image with the places of merged patches."""
    offset_T1 = torch.arange(image.num_tiles, device=source_TM.device)[:, None] * patches
    places = torch.full((image.num_tiles * patches,), -1, device=source_TM.device)
    shown = image.patch_N >= 0
    places[image.patch_N[shown]] = torch.arange(len(image.patch_N), device=source_TM.device)[shown]
    slots = places[(source_TM + offset_T1).flatten()]
    flat = (slots >= 0).nonzero().squeeze(1)
    return Packed(image.num_tiles, image.patch_N, image.image_size, image.canvas, flat, slots[flat])
