"""What the model makes of its images before the prompt is read, entry by entry of `get_image_features`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.families import Anatomy
from visgen.pruning.packing import Packed, Packing
from visgen.pruning.report import Clock
from visgen.pruning.tower import PackedTowerWatch, TowerWatch
from visgen.pruning.undo import Undo
from visgen.pruning.views import Merged, TowerView


@dataclass(frozen=True, eq=False)
class Entry:
    """One image, or one tile of an image, as features.

    Attributes:
        num_slots: places it has in the prompt.
        slots_N: for each of its feature rows the place it stands for; None = row i for place i.
        scores_N: attention that each row gets; None where nobody asked.
        tower: see `TowerView`; None where nobody asked.
    """

    num_slots: int
    slots_N: Tensor | None = None
    scores_N: Tensor | None = None
    tower: TowerView | None = None


@dataclass(frozen=True, eq=False)
class Encoded:
    """All entries of one call, and the object in which the model passes their features on."""

    outputs: Any
    entries: tuple[Entry, ...]


class Encoder:
    """Watches `get_image_features` and `get_video_features`, and shortens the tower's sequence.

    Args:
        anatomy: of the model.
        parts: the pruners; at most one merges in the tower.
        clock: for the work that is theirs.
        seen: of the same pictures, where another encoder has watched them; a merger looks itself.

    Raises:
        InputError: a model that cannot give what the pruners need.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        parts: Sequence[VisionTokenPruner],
        clock: Clock,
        seen: Encoder | None = None,
    ) -> None:
        self.anatomy, self.clock = anatomy, clock
        needs = {need for part in parts for need in part.needs}
        self.wants_scores, self.wants_tower = "scores" in needs, "tower" in needs
        self.merger = find_merger(anatomy, parts)
        self.seen = seen if self.merger is None else None
        self.watch = self._make_watch() if self.wants_scores or self.wants_tower else None
        self.packing = Packing(anatomy.base) if anatomy.family.packs else None
        self.last: dict[str, Encoded] = {}  # modality → what the last call gave
        self._projected_TNC: Tensor | None = None
        self._merged: Merged | None = None
        self._dropped = 0  # patches per tile that the merge took away
        self._inside = False  # features of videos come from those of images in some families

    def attach(self, undo: Undo) -> None:
        """Put hooks and overrides in place."""
        base, family = self.anatomy.base, self.anatomy.family
        for modality in self.anatomy.placeholder_ids():
            name = f"get_{modality}_features"
            if hasattr(base, name):
                undo.override(base, name, self._watched(getattr(base, name), modality))
        if self.seen is not None:
            return
        for watch in (self.watch, self.packing):
            if watch is not None:
                watch.attach(undo)
        if isinstance(self.watch, TowerWatch):
            undo.before(getattr(base, str(family.projector)), self._before_projector)
        if self.merger is not None:
            undo.after(self.anatomy.tower_layers[self.merger.tower_layer or 0], self._merge)

    def _make_watch(self) -> TowerWatch | PackedTowerWatch:
        if not self.anatomy.check_tower().packed:
            return TowerWatch(self.anatomy)
        if self.wants_tower:
            raise InputError(
                f"model is a {type(self.anatomy.model).__name__}, whose tower has no tiles and holds its own "
                "projector; use a pruner that needs features or scores alone, such as divprune or cls"
            )
        return PackedTowerWatch(self.anatomy)

    def _watched(self, original: Callable[..., Any], modality: str) -> Callable[..., Any]:
        @functools.wraps(original)  # `generate` reads the signature
        def features(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return original(*args, **kwargs)
            self._inside, self._merged = True, None
            try:
                outputs = (
                    original(*args, **kwargs) if self.seen is None else self._recalled(self.seen, modality)
                )
            finally:
                self._inside = False
            with self.clock.selecting():
                self.last[modality] = Encoded(outputs, tuple(self._entries(outputs)))
            return outputs

        return features

    def _recalled(self, seen: Encoder, modality: str) -> Any:
        """What the other encoder saw of these pictures."""
        self._projected_TNC, self.packing = seen._projected_TNC, seen.packing
        self.watch = None if self.watch is None else seen.watch
        return seen.last[modality].outputs

    def _merge(self, module: Any, args: tuple[Tensor, ...], kwargs: Any, output: Tensor) -> Tensor:
        assert self.merger is not None
        with self.clock.selecting():
            self._merged = self.merger.merge(output)
        self._dropped = output.shape[1] - self._merged.hidden_BLD.shape[1]
        if self.packing is not None:
            self.packing.source_TM = self._merged.source_BM
            self.packing.patches = self._merged.source_BM.shape[1] + self._dropped
        return self._merged.hidden_BLD

    def _before_projector(self, module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        self._projected_TNC = (args[0] if args else next(iter(kwargs.values()))).detach()

    def _entries(self, outputs: Any) -> Iterator[Entry]:
        if self._merged is not None and self.packing is None:
            outputs.pooler_output = [_lengthened(rows, self._dropped) for rows in outputs.pooler_output]
        lengths = [len(rows) for rows in outputs.pooler_output]
        if isinstance(self.watch, PackedTowerWatch):
            scores = self.watch.scores().split(lengths)
            return (Entry(n, scores_N=one) for n, one in zip(lengths, scores, strict=True))
        scores_TN = self._tile_scores() if isinstance(self.watch, TowerWatch) else None
        images = self._plain(lengths) if self.packing is None else self.packing.images
        return self._described(images, scores_TN)

    def _plain(self, lengths: Sequence[int]) -> list[Packed]:
        """Entries of one tile each."""
        device = self.anatomy.base.device
        maps = [torch.arange(length, device=device) for length in lengths]
        if self._merged is None:
            return [Packed(1, patch_N) for patch_N in maps]
        return [
            Packed(1, patch_N, flat_M=torch.arange(len(source), device=device), slots_M=source)
            for patch_N, source in zip(maps, self._merged.source_BM, strict=True)
        ]

    def _described(self, images: Sequence[Packed], scores_TN: Tensor | None) -> Iterator[Entry]:
        tile = 0
        for image in images:
            tiles = slice(tile, tile + image.num_tiles)
            tile += image.num_tiles
            scores = None if scores_TN is None else _in_sequence(scores_TN[tiles].flatten(), image)
            tower = self._tower_view(tiles, image) if self.wants_tower else None
            yield Entry(len(image.patch_N), image.slots_M, scores, tower)

    def _tile_scores(self) -> Tensor:
        """(T, N) float32 scores of what the projector gives: without CLS, 2 × 2 patches pooled if it does."""
        assert isinstance(self.watch, TowerWatch) and self._projected_TNC is not None
        scores_TL = self.watch.scores()
        wanted = self._projected_TNC.shape[1]
        if self.watch.has_cls and scores_TL.shape[1] != wanted:  # the "full" strategy keeps CLS as a token
            scores_TL = scores_TL[:, 1:]
        if not self.anatomy.family.shuffles:
            return scores_TL
        side = round(scores_TL.shape[1] ** 0.5)
        map_TRC1 = scores_TL.view(-1, side, side, 1)
        shuffled = self.anatomy.base.pixel_shuffle(map_TRC1, self.anatomy.model.config.downsample_ratio)
        return shuffled.mean(dim=-1).flatten(1)

    def _tower_view(self, tiles: slice, image: Packed) -> TowerView:
        assert isinstance(self.watch, TowerWatch) and self._projected_TNC is not None
        base = self.anatomy.base
        return TowerView(
            hidden_TNC=self._projected_TNC[tiles],
            queries_TLC=self.watch.queries_TLC[tiles],
            keys_TLC=self.watch.keys_TLC[tiles],
            num_heads=self.watch.num_heads,
            has_cls=self.watch.has_cls,
            patch_N=image.patch_N,
            project=getattr(base, str(self.anatomy.family.projector)).forward,
            canvas=image.canvas,
            image_size=image.image_size,
            newline=getattr(base, "image_newline", None),
        )


def plain(outputs: Any) -> Encoded:
    """Features that came from elsewhere: nothing but their lengths is known."""
    return Encoded(outputs, tuple(Entry(len(rows)) for rows in outputs.pooler_output))


def find_merger(anatomy: Anatomy, parts: Sequence[VisionTokenPruner]) -> VisionTokenPruner | None:
    """The part that merges in the tower, if any.

    Raises:
        InputError: two of them, or a tower whose sequence cannot be shortened.
    """
    mergers = [part for part in parts if part.tower_layer is not None]
    if not mergers:
        return None
    if len(mergers) > 1:
        raise InputError("two pruners of the chain merge in the vision tower; leave one of them out")
    if anatomy.family.shuffles or anatomy.check_tower().packed:
        raise InputError(
            f"{type(mergers[0]).__name__} merges in the vision tower, which a {type(anatomy.model).__name__} "
            "does not allow: its tower's patches must stay a grid; switch that stage off"
        )
    return mergers[0]


def _lengthened(rows_ND: Tensor, count: int) -> Tensor:
    """Zero rows behind: the model checks that there are as many rows as places in the prompt."""
    return torch.cat([rows_ND, rows_ND.new_zeros(count, rows_ND.shape[1])])


def _in_sequence(scores_M: Tensor, image: Packed) -> Tensor:
    """Scores of all patches, in the order of the image's rows; line ends get −inf."""
    if image.flat_M is not None:
        return scores_M[image.flat_M]
    return torch.where(image.patch_N >= 0, scores_M[image.patch_N.clamp_min(0)], -torch.inf)
