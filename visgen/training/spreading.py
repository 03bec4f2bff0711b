"""A start for tokens that resample an image: each from a place of its own.

Registers, latents and queries that start from noise must find out by themselves where to look, which costs
small models most of their training. When each starts from the position vector of another place of the grid,
both where it reads and where it writes, attention between equal vectors does that from the first step.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def spread_places(table_CHW: Tensor, count: int) -> Tensor:
    """Vectors (count, C) of `count` places of a grid's position table, row by row.

    A place is the mean over one of `count` equal rectangles, as near to squares as `count` has factors.
    """
    rows = next(n for n in range(int(count**0.5), 0, -1) if count % n == 0)
    places = F.adaptive_avg_pool2d(table_CHW[None].float(), (rows, count // rows))
    return places[0].flatten(1).T
