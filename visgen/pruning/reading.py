"""A prompt on its way into the language model, and what its decoding has to remember of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.encoding import Encoded
from visgen.pruning.families import Anatomy
from visgen.pruning.flops import DecoderShape
from visgen.pruning.layout import Placed, place_images
from visgen.pruning.report import Clock, PruneReport, split_by_image
from visgen.pruning.selecting import Prompt, select, view_images
from visgen.pruning.stages import Stage, entering, gather_entries, gather_positions
from visgen.pruning.views import ImageView


@dataclass(frozen=True, eq=False)
class Incoming:
    """What the base model is called with: ids (B, L), mask (B, L) or None, modality → encoder outputs."""

    ids_BL: Tensor
    mask_BL: Tensor | None
    features: Mapping[str, Any]


@dataclass(eq=False)
class Reading:
    """A pruned prompt.

    Attributes:
        valid_BL: real entries of the prompt.
        images: places of each row's images.
        notes: of each row, what pruners wrote down.
        stages: the sequence before the first layer, and after each pruning inside.
        read_stages: of each layer, which stage it read.
        cache_stages: of each layer, which stage its cache holds.
        next_position: (…, B, 1) rotary position of the first new token.
        compact: whether positions are counted anew at each stage.
        cache: where keys are, or None.
        new: tokens decoded so far.
    """

    valid_BL: Tensor
    images: Sequence[Sequence[Placed]]
    notes: Sequence[dict[str, Any]]
    stages: list[Stage]
    read_stages: list[int]
    next_position: Tensor
    compact: bool
    cache_stages: list[int] = field(default_factory=list)
    cache: Any = None
    new: int = 0
    _lengths: list[int] = field(default_factory=list)

    def step(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the language model for one new token."""
        self.new += 1
        stage = self.stages[self.cache_stages[0]]
        mask = None
        if stage.padded:
            ones_BN = stage.valid_BL.new_ones(len(stage.valid_BL), self.new)
            mask = torch.cat([stage.valid_BL, ones_BN], dim=1).long()
        return {**kwargs, "attention_mask": mask, "position_ids": self.position(0)}

    def position(self, layer: int) -> Tensor:
        """(…, B, 1) rotary position of the newest token in a layer."""
        if not self.compact:
            return self.next_position + self.new - 1
        return self.stages[self.cache_stages[layer]].counts_B[:, None] + self.new - 1

    def finish(self, cache: Any, cuts: Collection[int]) -> None:
        """After the prefill: cut caches to the last stage, and remember how long they are."""
        self.cache, self.cache_stages = cache, list(self.read_stages)
        if cache is None:
            return
        last = len(self.stages) - 1
        for layer in cuts:
            if self.cache_stages[layer] != last:
                index_BM = self.stages[self.cache_stages[layer]].find(self.stages[last])
                _cut(cache.layers[layer], index_BM)
                self.cache_stages[layer] = last
        self._lengths = self._found_lengths()

    def untouched(self) -> bool:
        """Whether the cache is as the last step left it."""
        return self._found_lengths() == [length + self.new for length in self._lengths]

    def _found_lengths(self) -> list[int]:
        return [self.cache.get_seq_length(layer) for layer in range(len(self.read_stages))]

    def report(self, clock: Clock, shape: DecoderShape) -> PruneReport:
        """What was kept, layer by layer."""
        first, last = self.stages[0], self.stages[-1]
        images = [[image.positions_N for image in row] for row in self.images]
        counts = [stage.image_BL.sum(dim=1).tolist() for stage in self.stages]
        full = [sum(len(places) for places in row) for row in images]
        return PruneReport(
            entered=_by_image(first, images),
            kept=_by_image(last, images),
            image_tokens=tuple(tuple(len(places) for places in row) for row in images),
            text_tokens=tuple(
                int(total) - count for total, count in zip(self.valid_BL.sum(dim=1), full, strict=True)
            ),
            counts=tuple(
                tuple(counts[stage][row] for stage in self.read_stages) for row in range(len(images))
            ),
            entries_BL=first.prompt_BL.masked_fill(~first.valid_BL, -1),
            selection_ms=clock.selection,
            prefill_ms=clock.prefill,
            shape=shape,
            cache_bytes=self._cache_bytes(shape),
        )

    def _cache_bytes(self, shape: DecoderShape) -> tuple[int, ...]:
        if self.cache is None:
            return (0,) * len(self.images)
        tokens_SB = torch.stack([stage.valid_BL.sum(dim=1) for stage in self.stages])
        itemsize = self.cache.layers[0].keys.element_size()
        return tuple((shape.cache_entry(itemsize) * tokens_SB[self.cache_stages].sum(dim=0)).tolist())


def read_prompt(
    incoming: Incoming,
    encoded: Mapping[str, Encoded],
    kwargs: dict[str, Any],
    anatomy: Anatomy,
    parts: Sequence[VisionTokenPruner],
    compact: bool,
    clock: Clock,
) -> tuple[Reading, dict[str, Any]] | None:
    """The pruned prompt and the language model's arguments for it; None where no image is in it."""
    embeds_BLD: Tensor = kwargs["inputs_embeds"]
    ids_BL = incoming.ids_BL.to(embeds_BLD.device)
    valid_BL = torch.ones_like(ids_BL) if incoming.mask_BL is None else incoming.mask_BL
    valid_BL = valid_BL.to(ids_BL.device).bool()
    tiles_join = anatomy.family.entry == "tile"
    images = place_images(ids_BL, anatomy.placeholder_ids(), encoded, tiles_join)
    if not any(images):
        return None
    _check_scores(images, parts)
    prompt = Prompt(ids_BL, embeds_BLD, valid_BL, images)
    with clock.selecting():
        views = select(parts, view_images(prompt, parts))
    by_row = [[view for view in views if view.sample == row] for row in range(len(ids_BL))]
    kept, notes = _kept(by_row, images), [row[0].notes if row else {} for row in by_row]
    stage = entering(valid_BL, kept, [[image.positions_N for image in row] for row in images])
    embeds_BLD = _with_changes(embeds_BLD, by_row, kept)
    positions = _positions(kwargs, stage, compact)
    explicit = stage.padded or _no_cache(kwargs)
    changed = {
        "inputs_embeds": gather_entries(embeds_BLD, stage.prompt_BL),
        "position_ids": positions,
        "attention_mask": stage.valid_BL.long() if explicit else None,
        **_deepstack(kwargs, stage),
    }
    reading = Reading(
        valid_BL, images, notes, [stage], [0] * len(anatomy.layers), positions[..., -1:] + 1, compact
    )
    return reading, {**kwargs, **changed}


def _check_scores(images: Sequence[Sequence[Placed]], parts: Sequence[VisionTokenPruner]) -> None:
    entries = [entry for row in images for image in row for entry in image.entries]
    for part in parts:
        scoreless = "scores" in part.needs and any(entry.scores_N is None for entry in entries)
        towerless = "tower" in part.needs and any(entry.tower is None for entry in entries)
        if scoreless or towerless:
            raise InputError(
                f"{type(part).__name__} did not see how these features came about: give pixel_values inside "
                "the block, not mm_encoder_outputs, and no prefill_chunk_size (chunked prefill cuts them)"
            )


def _kept(views: Sequence[Sequence[ImageView]], images: Sequence[Sequence[Placed]]) -> list[list[Tensor]]:
    """Of each row and image the places that stay, in the order in which they are to stand."""
    return [
        [image.positions_N[view.slots_N] for view, image in zip(row, row_images, strict=True)]
        for row, row_images in zip(views, images, strict=True)
    ]


def _with_changes(
    embeds_BLD: Tensor, views: Sequence[Sequence[ImageView]], kept: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Embeddings with merged features at the places they take."""
    if not any(view.changed for row in views for view in row):
        return embeds_BLD
    embeds_BLD = embeds_BLD.clone()
    for number, (row, row_kept) in enumerate(zip(views, kept, strict=True)):
        for view, places in zip(row, row_kept, strict=True):
            embeds_BLD[number, places] = view.features_ND.to(embeds_BLD.dtype)
    return embeds_BLD


def _positions(kwargs: Mapping[str, Any], stage: Stage, compact: bool) -> Tensor:
    """Rotary positions of the entries; a model that is given none counts places, padding included."""
    if compact:
        return stage.ranks_BL
    ids = kwargs.get("position_ids")
    if ids is None:
        length = kwargs["inputs_embeds"].shape[1]
        ids = torch.arange(length, device=stage.prompt_BL.device)[None]
    return gather_positions(ids, stage.prompt_BL)


def _no_cache(kwargs: Mapping[str, Any]) -> bool:
    """Without a cache and a mask, transformers takes gaps between positions for borders of packed prompts."""
    return kwargs.get("cache") is None and kwargs.get("past_key_values") is None


def _deepstack(kwargs: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """Qwen3-VL: which entries features are added to, and the features of those."""
    if kwargs.get("deepstack_visual_embeds") is None:
        return {}
    visual_BL = kwargs["visual_pos_masks"].to(stage.prompt_BL.device)
    number_BL = visual_BL.flatten().cumsum(0).view(visual_BL.shape) - 1
    rows = number_BL.gather(1, stage.prompt_BL)[stage.image_BL]
    embeds = [level[rows.to(level.device)] for level in kwargs["deepstack_visual_embeds"]]
    return {"visual_pos_masks": stage.image_BL, "deepstack_visual_embeds": embeds}


def _by_image(stage: Stage, images: Sequence[Sequence[Tensor]]) -> tuple[tuple[Tensor, ...], ...]:
    return tuple(
        split_by_image(places_L[image_L], row)
        for places_L, image_L, row in zip(stage.prompt_BL, stage.image_BL, images, strict=True)
    )


def _cut(layer: Any, index_BM: Tensor) -> None:
    """Keep some entries of a cache's layer."""
    index_B1M1 = index_BM.to(layer.keys.device)[:, None, :, None]
    for name in ("keys", "values"):
        x_BHLD = getattr(layer, name)
        index = index_B1M1.expand(-1, x_BHLD.shape[1], -1, x_BHLD.shape[3])
        setattr(layer, name, x_BHLD.gather(2, index))
