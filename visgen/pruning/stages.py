"""The sequence from one pruning to the next: which prompt tokens are in it, row by row.

Rows of different length are padded on the left, where a decoder's padding belongs: the last entry of every
row is its newest token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Stage:
    """Entries of a batch.

    Attributes:
        prompt_BL: int64, for each entry its place in the original prompt; 0 where padded.
        valid_BL: False where padded.
        image_BL: whether an entry is an image token.
        padded: whether any entry is padding.
    """

    prompt_BL: Tensor
    valid_BL: Tensor
    image_BL: Tensor
    padded: bool

    @property
    def length(self) -> int:
        """Entries of a row, padding included."""
        return self.prompt_BL.shape[1]

    @property
    def counts_B(self) -> Tensor:
        """Real entries of each row."""
        return self.valid_BL.sum(dim=1)

    @property
    def ranks_BL(self) -> Tensor:
        """0, 1, 2 … over the real entries of each row; 0 where padded."""
        return (self.valid_BL.cumsum(dim=1) - 1).clamp_min(0)

    def take(self, rows: Sequence[Tensor]) -> tuple[Stage, Tensor]:
        """The stage that some entries of each row make, and their index (B, M) into this one; 0 where
        padded."""
        index_BM, valid_BM = padded_rows(rows)
        valid_BM &= self.valid_BL.gather(1, index_BM)
        image_BM = self.image_BL.gather(1, index_BM) & valid_BM
        prompt_BM = self.prompt_BL.gather(1, index_BM).masked_fill(~valid_BM, 0)
        return Stage(prompt_BM, valid_BM, image_BM, not bool(valid_BM.all())), index_BM

    def find(self, later: Stage) -> Tensor:
        """(B, M) int64: where the entries of a later stage stand in this one; 0 where that is padded."""
        keys_BL = (self.prompt_BL + 1).masked_fill(~self.valid_BL, 0)  # 0 holds all padding
        entry_BK = keys_BL.new_zeros(len(keys_BL), int(keys_BL.max()) + 1)
        entries_L = torch.arange(self.length, device=keys_BL.device)
        entry_BK.scatter_(1, keys_BL, entries_L.expand_as(keys_BL))
        return entry_BK.gather(1, later.prompt_BL + 1).masked_fill(~later.valid_BL, 0)


def padded_rows(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Index rows of different length as (B, M) with zeros on the left, and where they are real."""
    longest = max(len(row) for row in rows)
    index_BM = torch.zeros(len(rows), longest, dtype=torch.long, device=rows[0].device)
    valid_BM = torch.zeros_like(index_BM, dtype=torch.bool)
    for number, row in enumerate(rows):
        index_BM[number, longest - len(row) :] = row
        valid_BM[number, longest - len(row) :] = True
    return index_BM, valid_BM


def entering(valid_BL: Tensor, kept: Sequence[Sequence[Tensor]], images: Sequence[Sequence[Tensor]]) -> Stage:
    """The sequence that enters the language model.

    Args:
        valid_BL: real entries of the prompts.
        kept: of each row and image the prompt places that stay, in the order in which they are to stand.
        images: of each row and image all its places.
    """
    rows, is_image = [], []
    for valid_L, row_kept, row_images in zip(valid_BL, kept, images, strict=True):
        stays, content = valid_L.clone(), torch.arange(len(valid_L), device=valid_L.device)
        image_L = torch.zeros_like(valid_L)
        for places in row_images:
            stays[places] = False
        for ordered in row_kept:
            places = ordered.sort().values  # the i-th of the order stands at the i-th place that stays
            stays[places], image_L[places], content[places] = True, True, ordered
        rows.append(content[stays])
        is_image.append(image_L[stays])
    prompt_BM, valid_BM = padded_rows(rows)
    image_BM = padded_rows([flags.long() for flags in is_image])[0].bool()
    return Stage(prompt_BM, valid_BM, image_BM, not bool(valid_BM.all()))


def gather_entries(x_BLD: Tensor, index_BM: Tensor) -> Tensor:
    """Entries of dimension 1; a batch of 1 stands for all rows."""
    index_BM = index_BM.to(x_BLD.device)
    x_BLD = x_BLD.expand(len(index_BM), *x_BLD.shape[1:])
    return x_BLD.gather(1, index_BM[..., None].expand(-1, -1, x_BLD.shape[-1]))


def gather_positions(ids: Tensor, index_BM: Tensor) -> Tensor:
    """Position ids (B, L) or (axes, B, L) of some entries; a batch of 1 stands for all rows."""
    index_BM = index_BM.to(ids.device)
    ids = ids.expand(*ids.shape[:-2], *index_BM.shape[:1], ids.shape[-1])
    return ids.gather(-1, index_BM.expand(*ids.shape[:-1], -1))


def attention_mask(
    stage: Stage, queries: int, new: int, implementation: str, dtype: torch.dtype
) -> Tensor | None:
    """The mask of a decoder layer over a stage and `new` tokens behind it, of which the last `queries` look.

    None where nothing is padded. Padding looks at itself alone: a row that sees nothing has no softmax.

    Args:
        implementation: "sdpa" takes booleans (B, 1, Q, K), "eager" additive values of `dtype`, flash
            attention the keys (B, K) that are real.
    """
    if not stage.padded:
        return None
    valid_BK = torch.cat([stage.valid_BL, stage.valid_BL.new_ones(len(stage.valid_BL), new)], dim=1)
    if "flash" in implementation:
        return valid_BK
    keys = torch.arange(valid_BK.shape[1], device=valid_BK.device)
    rows_Q1 = keys[-queries:, None]
    seen_B1QK = (valid_BK[:, None, None] & (keys <= rows_Q1)) | (keys == rows_Q1)
    if implementation != "eager":
        return seen_B1QK
    return torch.zeros_like(seen_B1QK, dtype=dtype).masked_fill(~seen_B1QK, torch.finfo(dtype).min)
