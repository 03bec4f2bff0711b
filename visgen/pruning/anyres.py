"""Geometry of AnyRes pictures (LLaVA-NeXT): a grid of crops, the part of it that padding does not cover, and
the sequence that kept tokens make with a line end per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Region:
    """Rows [top, bottom) and columns [left, right) of a canvas of tokens."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class Canvas:
    """`rows` × `columns` crops of `side` × `side` tokens, crops and tokens in raster order."""

    rows: int
    columns: int
    side: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.rows * self.side, self.columns * self.side

    def unpadded(self, image_size: tuple[int, int], digits: int | None = None) -> Region:
        """The part that shows the picture, as LLaVA's `unpad_image` finds it.

        Args:
            image_size: the picture's (height, width) in pixels.
            digits: transformers rounds the scaled side to 7 digits before it drops the fraction; LLaVA does
                not.
        """
        (height, width), (image_height, image_width) = self.size, image_size

        def pad(canvas: int, length: int, scale: float) -> int:
            scaled = length * scale
            return (canvas - int(scaled if digits is None else round(scaled, digits))) // 2

        if image_width / image_height > width / height:
            margin = pad(height, image_height, width / image_width)
            return Region(margin, height - margin, 0, width)
        margin = pad(width, image_width, height / image_height)
        return Region(0, height, margin, width - margin)

    def crops(self, region: Region) -> list[Region]:
        """The part of each crop that lies in the region, in the crop's own coordinates; maybe empty."""
        spans = [
            [
                (min(max(first - i * self.side, 0), self.side), min(max(last - i * self.side, 0), self.side))
                for i in range(count)
            ]
            for first, last, count in (
                (region.top, region.bottom, self.rows),
                (region.left, region.right, self.columns),
            )
        ]
        return [Region(*row, *column) for row in spans[0] for column in spans[1]]

    def cut(self, map_HW: Tensor, region: Region) -> list[Tensor]:
        """What each crop shows, flattened, of a map over the region."""
        canvas = map_HW.new_zeros(self.size)
        canvas[region.top : region.bottom, region.left : region.right] = map_HW
        blocks = canvas.view(self.rows, self.side, self.columns, self.side).transpose(1, 2).flatten(0, 1)
        return [
            block[part.top : part.bottom, part.left : part.right].flatten()
            for block, part in zip(blocks, self.crops(region))
        ]

    def tokens(self, part: Region) -> Tensor:
        """Numbers of a crop's tokens that lie in a part of it, raster order, int64."""
        number = torch.arange(self.side**2).view(self.side, self.side)
        return number[part.top : part.bottom, part.left : part.right].flatten()

    def places(self, crop: int | Tensor, token_K: Tensor) -> Tensor:
        """Where tokens of a crop, or of a crop each, stand in the canvas, raster order, int64."""
        rows = crop // self.columns * self.side + token_K // self.side
        return rows * self.size[1] + crop % self.columns * self.side + token_K % self.side

    def bounds(self, places_K: Tensor) -> Region:
        """The smallest region that holds all places; an empty one holds none."""
        if not len(places_K):
            return Region(0, 0, 0, 0)
        rows, columns = places_K // self.size[1], places_K % self.size[1]
        return Region(int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1)


def with_line_ends(features_KD: Tensor, places_K: Tensor, size: tuple[int, int], newline_D: Tensor) -> Tensor:
    """(K + rows, D): tokens in raster order of their places, each row of the canvas, empty too, ended by
    `newline_D`."""
    rows, columns = size
    ends = torch.arange(rows, device=places_K.device) * (columns + 1) + columns
    places = places_K + places_K // columns  # in a canvas with one column more
    features = torch.cat([features_KD, newline_D.to(features_KD).expand(rows, -1)])
    return features[torch.cat([places, ends]).argsort()]


def concatenated_places(canvas: Canvas, tokens: Sequence[Tensor]) -> Tensor:
    """Places of the chosen tokens of all crops, crop after crop.

    GlobalCom²'s released code gives indices among a crop's *unpadded* tokens as if they were tokens.
    """
    return torch.cat([canvas.places(crop, chosen) for crop, chosen in enumerate(tokens)])
