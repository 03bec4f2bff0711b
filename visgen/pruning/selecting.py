"""From images in prompts to what stays of them before the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.encoding import Entry
from visgen.pruning.layout import Placed
from visgen.pruning.views import ImageView, Selection, TowerView


@dataclass(frozen=True, eq=False)
class Prompt:
    """A batch of prompts as the language model would read them.

    Attributes:
        ids_BL, embeds_BLD: tokens and their embeddings, images in place.
        valid_BL: False where a row is padded.
        images: of each row.
    """

    ids_BL: Tensor
    embeds_BLD: Tensor
    valid_BL: Tensor
    images: Sequence[Sequence[Placed]]


def view_images(prompt: Prompt, parts: Sequence[VisionTokenPruner]) -> list[ImageView]:
    """A view of every image, row by row, with what the pruners need."""
    wants_text = any("text" in part.needs for part in parts)
    views = []
    for row, images in enumerate(prompt.images):
        notes: dict[str, Any] = {}
        text = _text(prompt, row) if wants_text and images else {}
        for ordinal, image in enumerate(images):
            view = _view(prompt.embeds_BLD[row, image.positions_N], image.entries)
            views.append(
                replace(view, sample=row, ordinal=ordinal, modality=image.modality, notes=notes, **text)
            )
    return views


def select(parts: Sequence[VisionTokenPruner], views: Sequence[ImageView]) -> list[ImageView]:
    """The views as all pruners leave them, one after another."""
    for part in parts:
        groups = [[view] for view in views] if part.scope == "image" else _by_sample(views)
        selections = part.select([_joined(group) for group in groups]) if groups else None
        if selections is not None:
            pairs = zip(groups, selections, strict=True)
            views = [view for group, selection in pairs for view in _split(group, selection, part.order)]
    return list(views)


def _view(rows_ND: Tensor, entries: Sequence[Entry]) -> ImageView:
    """The image's real rows: those of a tile whose patches were merged in the tower stand first."""
    features, slots, offset = [], [], 0
    for entry, part in zip(entries, rows_ND.split([entry.num_slots for entry in entries]), strict=True):
        own = entry.slots_N
        own = torch.arange(entry.num_slots, device=rows_ND.device) if own is None else own.to(rows_ND.device)
        features.append(part[: len(own)])
        slots.append(own + offset)
        offset += entry.num_slots
    scores = [entry.scores_N for entry in entries if entry.scores_N is not None]
    towers = [entry.tower for entry in entries if entry.tower is not None]
    return ImageView(
        torch.cat(features),
        torch.cat(slots),
        offset,
        sample=0,
        ordinal=0,
        scores_N=torch.cat(scores).to(rows_ND.device) if scores else None,
        tower=_all_tiles(towers) if towers else None,
        changed=any(entry.slots_N is not None for entry in entries),
    )


def _all_tiles(towers: Sequence[TowerView]) -> TowerView:
    """One view of tiles that were entries of their own."""
    first, patches = towers[0], towers[0].hidden_TNC.shape[1]
    if len(towers) == 1:
        return first
    return replace(
        first,
        hidden_TNC=torch.cat([tower.hidden_TNC for tower in towers]),
        queries_TLC=torch.cat([tower.queries_TLC for tower in towers]),
        keys_TLC=torch.cat([tower.keys_TLC for tower in towers]),
        patch_N=torch.cat([tower.patch_N + tile * patches for tile, tower in enumerate(towers)]),
    )


def _text(prompt: Prompt, row: int) -> dict[str, Tensor]:
    """The row's text tokens: neither padding nor places of images."""
    is_text = prompt.valid_BL[row].clone()
    for image in prompt.images[row]:
        is_text[image.positions_N] = False
    return {"text_TD": prompt.embeds_BLD[row, is_text], "text_ids_T": prompt.ids_BL[row, is_text]}


def _by_sample(views: Sequence[ImageView]) -> list[list[ImageView]]:
    groups: dict[int, list[ImageView]] = {}
    for view in views:
        groups.setdefault(view.sample, []).append(view)
    return list(groups.values())


def _joined(views: Sequence[ImageView]) -> ImageView:
    """One view over several images, their tokens one after another."""
    if len(views) == 1:
        return views[0]
    offsets = torch.tensor([0, *(view.num_slots for view in views[:-1])]).cumsum(0).tolist()
    scores = [view.scores_N for view in views if view.scores_N is not None]
    return replace(
        views[0],
        features_ND=torch.cat([view.features_ND for view in views]),
        slots_N=torch.cat([view.slots_N + offset for view, offset in zip(views, offsets, strict=True)]),
        num_slots=sum(view.num_slots for view in views),
        scores_N=torch.cat(scores) if scores else None,
        tower=None,
    )


def _split(views: Sequence[ImageView], selection: Selection, order: str) -> list[ImageView]:
    """Each image as a selection of all of them leaves it."""
    left, start = [], 0
    _check(selection, sum(len(view) for view in views))
    for view in views:
        inside = (selection.index_K >= start) & (selection.index_K < start + len(view))
        features = None if selection.features_KD is None else selection.features_KD[inside]
        taken = view.take(Selection(selection.index_K[inside] - start, features))
        left.append(taken.take(Selection(taken.slots_N.argsort())) if order == "index" else taken)
        start += len(view)
    return left


def _check(selection: Selection, total: int) -> None:
    """A mistake of a pruner, not of its user."""
    index = selection.index_K
    if not len(index) or int(index.min()) < 0 or int(index.max()) >= total:
        raise ValueError(f"a selection of {len(index)} entries out of {total} must name 1 … {total} of them")
    if len(index.unique()) != len(index):
        raise ValueError("a selection names an entry twice")
