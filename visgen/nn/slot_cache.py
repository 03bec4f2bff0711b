"""Key-value cache with slots per row: rows advance at their own pace, dropping drafts is forgetting them."""

from __future__ import annotations

import torch
from torch import Tensor


class SlotCache:
    """Keys and values of all layers, (layers, 2, R, H, slots, D), allocated once.

    Row r holds `lengths[r]` entries for good, in its first slots. `begin` announces N new entries per row,
    each layer `write`s theirs behind them and gets all it may attend to, and `keep` says which of the new
    ones stay.

    Args:
        rows: R; with guidance the unconditional rows are rows of their own.
        slots: entries a row may hold, the drafts of a pass included.
        hidden: (R, P) bool, True = prefix slots that nobody may see (padding); or None.
    """

    def __init__(
        self,
        num_layers: int,
        rows: int,
        num_heads: int,
        slots: int,
        head_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        hidden: Tensor | None = None,
    ) -> None:
        self._store = torch.zeros(
            num_layers, 2, rows, num_heads, slots, head_size, dtype=dtype, device=device
        )
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self._hidden = hidden
        self._even: int | None = 0  # the common length of all rows, None when they differ
        self._pending, self._count, self._span, self._slots = 0, 0, 0, torch.empty(0)

    @property
    def slots(self) -> int:
        """Entries a row may hold."""
        return self._store.shape[4]

    def begin(self, count: int, ancestors: Tensor | None = None, *, append: bool = False) -> Tensor | None:
        """Prepare N = `count` new entries; returns the mask (R, 1, N, span) of what each may see, or None.

        Args:
            count: entries per row.
            ancestors: bool (R or 1, N, N), True where entry i may see entry j, itself included; None = a
                chain.
            append: put them behind those of earlier `begin`s since the last `keep`, M in number, instead of
                in their place; `ancestors` is (R or 1, N, M + N) then, and `keep` counts from the first of
                all.

        Raises:
            ValueError: no room for them.
        """
        self._pending = self._pending + self._count if append else 0
        longest = self._even if self._even is not None else int(self.lengths.max())
        total = self._pending + count
        if longest + total > self.slots:
            raise ValueError(f"{longest} + {total} entries do not fit into {self.slots} slots")
        self._count, self._span = count, longest + total
        if self._even is None:
            self._slots = self.lengths[:, None] + torch.arange(total, device=self.lengths.device)
        return self._mask(ancestors)

    def _mask(self, ancestors: Tensor | None) -> Tensor | None:
        sees_all = ancestors is None or not self._pending
        if self._even is not None and self._hidden is None and self._count == 1 and sees_all:
            return None
        n, device = self._count, self.lengths.device
        slot = torch.arange(self._span, device=device)
        total = self._pending + n
        if ancestors is None:
            ancestors = torch.ones(1, n, total, dtype=torch.bool, device=device).tril(self._pending)
        rows = len(self.lengths)
        mask = (slot < self.lengths[:, None])[:, None].repeat(1, n, 1)  # (R, N, span)
        if self._hidden is not None:
            width = min(self._hidden.shape[1], self._span)
            mask[:, :, :width] &= ~self._hidden[:, None, :width]
        ancestors = ancestors.expand(rows, n, total)
        if self._even is not None:
            mask[:, :, self._even : self._span] = ancestors
        else:
            mask.scatter_(2, self._slots[:, None].expand(rows, n, total), ancestors)
        return mask[:, None]

    def write(self, layer: int, k_RHND: Tensor, v_RHND: Tensor) -> tuple[Tensor, Tensor]:
        """Put a layer's new keys and values in place; returns all of them, (R, H, span, D)."""
        keys, values = self._store[layer]
        if self._even is not None:
            start = self._even + self._pending
            keys[:, :, start : self._span] = k_RHND
            values[:, :, start : self._span] = v_RHND
        else:
            r = torch.arange(len(keys), device=keys.device)[:, None]
            slots = self._slots[:, self._pending :]
            keys[r, :, slots] = k_RHND.transpose(1, 2)
            values[r, :, slots] = v_RHND.transpose(1, 2)
        return keys[:, :, : self._span], values[:, :, : self._span]

    def keep(self, counts_R: Tensor, index_RM: Tensor | None = None) -> None:
        """The first `counts_R` new entries of each row stay (of `index_RM`, where they are not the first).

        A row's entries move only when they are not in place already.
        """
        if index_RM is not None:
            self._move(index_RM, counts_R)
        self._pending = self._count = 0
        self.lengths = self.lengths + counts_R.to(self.lengths)
        first = int(self.lengths[0])
        self._even = first if bool((self.lengths == first).all()) else None

    def _move(self, index_RM: Tensor, counts_R: Tensor) -> None:
        width = int(counts_R.max()) if len(counts_R) else 0
        steps = torch.arange(width, device=self.lengths.device)
        wanted = index_RM[:, :width].to(self.lengths)
        wanted = torch.where(steps < counts_R[:, None].to(self.lengths), wanted, steps)
        if bool((wanted == steps).all()):
            return
        row = torch.arange(len(self.lengths), device=self.lengths.device)[:, None]
        source, target = self.lengths[:, None] + wanted, self.lengths[:, None] + steps
        self._store[:, :, row, :, target] = self._store[:, :, row, :, source]
