"""Where the positions of an xAR pass stand and which of them see each other; no weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.generators.entities import EntityLayout
from visgen.nn.rope import Rotation, place_rotation

ROPE_BASE = 10000.0


@dataclass(frozen=True, eq=False)
class Geometry:
    """One pass over all entities: text first, then clean entities if noisy ones are to see those, then the
    entities.

    Attributes:
        lengths: positions of each group that has one noise level; text is one.
        rotation: rotary tables of all positions.
        mask: bool (L, L), True = may attend; None = all see all.
    """

    lengths: tuple[int, ...]
    rotation: Rotation
    mask: Tensor | None


def whole_pass(
    entities: EntityLayout, head_size: int, text_length: int, clean_context: bool, device: torch.device
) -> Geometry:
    """The geometry of a training pass."""
    lengths, places, mask = entities.lengths, entities.places(), entities.attention_mask()
    if clean_context:
        lengths, places, mask = lengths * 2, places.repeat(2, 1), behind_clean(mask)
    if text_length:
        lengths, mask = (text_length, *lengths), behind_text(mask, text_length)
    return Geometry(
        lengths,
        rotary_tables(places, head_size, text_length, device),
        None if len(lengths) == 1 else mask.to(device),
    )


def rotary_tables(places_L2: Tensor, head_size: int, text_length: int, device: torch.device) -> Rotation:
    """Cos and sin of text positions, which are not turned, and of places on the grid."""
    cos, sin = place_rotation(places_L2, head_size, ROPE_BASE, text_length, "identity")
    return cos.to(device), sin.to(device)


def behind_clean(mask_LL: Tensor) -> Tensor:
    """Bool (2L, 2L) of clean positions, then noisy ones, which see their entity and the clean ones before."""
    same = mask_LL & mask_LL.T
    clean = torch.cat([mask_LL, torch.zeros_like(mask_LL)], dim=1)
    return torch.cat([clean, torch.cat([mask_LL & ~same, same], dim=1)])


def behind_text(mask_LL: Tensor, length: int) -> Tensor:
    """Bool (T + L, T + L): all see the T positions of the text, which see only each other."""
    below = F.pad(mask_LL, (length, 0), value=True)
    above = torch.arange(below.shape[1]) < length
    return torch.cat([above.expand(length, -1), below])
