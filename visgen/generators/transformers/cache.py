"""A transformers `Cache` whose layers write into our slot cache: any trunk of that library gets rows that
advance at their own pace, trees, and roll-back for nothing."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from visgen.nn.slot_cache import SlotCache


class SlotLayer(CacheLayerMixin):
    """One layer's share of a `SlotCache`. What a pass may see was said by `SlotCache.begin`."""

    is_compileable = False
    is_sliding = False

    def __init__(self, slots: SlotCache, index: int) -> None:
        super().__init__()
        self._slots, self._index = slots, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the slot cache is allocated whole."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (R, H, N, D) keys and values; returns all of the span, (R, H, span, D)."""
        return self._slots.write(self._index, key_states, value_states)

    def get_seq_length(self) -> int:
        """Entries of the longest row."""
        return int(self._slots.lengths.max())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys, offset), asked for only where a pass needs no mask."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """Slots per row."""
        return self._slots.slots


class TrunkCache(Cache):
    """`past_key_values` of a trunk over a `SlotCache`; `begin` and `keep` of the slots rule each pass."""

    def __init__(self, slots: SlotCache, num_layers: int) -> None:
        super().__init__(layers=[SlotLayer(slots, index) for index in range(num_layers)])
