"""Key-value cache of one call: allocated once, filled in place, dropped with the call."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values of all layers, (layers, 2, B, H, max_length, D).

    `extend` writes the new positions of a layer and returns views over everything so far; `advance` moves on
    once all layers have written. Without it, the next positions take the place of these.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        max_length: int,
        head_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, 2, batch_size, num_heads, max_length, head_size)
        self._store = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def extend(self, layer: int, k_BHLD: Tensor, v_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values of a layer; returns all of its keys and values up to here. Fewer rows than
        the cache has are its first ones."""
        keys, values = self._store[layer, :, : len(k_BHLD)]
        end = self.length + k_BHLD.shape[2]
        keys[:, :, self.length : end] = k_BHLD
        values[:, :, self.length : end] = v_BHLD
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, count: int) -> None:
        """`count` positions are now written in every layer."""
        self.length += count
