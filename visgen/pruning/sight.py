"""One look at a batch of pictures for several prunings: the vision tower runs once.

    sight = look(model, inputs)
    for pruner in pruners:
        with sight.pruned(pruner) as run:
            model.generate(**inputs)

What a pruner keeps and what the model answers is what it would be without sharing. A pruner that merges in
the tower looks itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.encoding import Encoder, find_merger
from visgen.pruning.families import Anatomy, locate
from visgen.pruning.report import Clock
from visgen.pruning.run import PruneRun, prune
from visgen.pruning.undo import Undo


class _Scores(VisionTokenPruner):
    needs = frozenset({"scores"})


class _Tower(VisionTokenPruner):
    needs = frozenset({"scores", "tower"})


@dataclass(frozen=True, eq=False)
class Sight:
    """What the vision tower made of the pictures of one batch, one picture per row.

    Attributes:
        model: whose tower it was.
        encoder: what it noted.
        hidden: tower layer → its output (T, L, D), of the layers that were asked for.
    """

    model: Any
    encoder: Encoder
    hidden: Mapping[int, Tensor]

    def pruned(self, pruner: VisionTokenPruner) -> AbstractContextManager[PruneRun]:
        """As `pruner(model)`, for these pictures."""
        return prune(self.model, pruner, self.encoder)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The model as it is, for these pictures."""
        outputs, base = self.encoder.last["image"].outputs, self.encoder.anatomy.base

        @functools.wraps(base.get_image_features)  # `generate` reads the signature
        def features(*args: Any, **kwargs: Any) -> Any:
            return outputs

        with Undo() as undo:
            undo.override(base, "get_image_features", features)
            yield

    def even_rows(self, pruner: VisionTokenPruner) -> list[list[int]]:
        """Rows in groups that a pruner which merges in the tower shortens alike, so that beside each other
        they are cut as each is alone; one group of all rows for other pruners.

        Raises:
            InputError: a tower whose sequence cannot be shortened.
        """
        rows = list(range(len(self.encoder.last["image"].entries)))
        merger = find_merger(self.encoder.anatomy, pruner.parts)
        if merger is None:
            return [rows]
        hidden_TLD, groups = self.hidden[merger.tower_layer or 0], dict[int, list[int]]()
        for row, tiles_tLD in zip(rows, hidden_TLD.split(self._tiles(len(rows))), strict=True):
            groups.setdefault(merger.merge(tiles_tLD).hidden_BLD.shape[1], []).append(row)
        return list(groups.values())

    def _tiles(self, rows: int) -> list[int]:
        packing = self.encoder.packing
        return [1] * rows if packing is None else [image.num_tiles for image in packing.images]


def look(model: Any, inputs: Mapping[str, Any], layers: Collection[int] = ()) -> Sight:
    """Run the vision tower on the pictures of a batch.

    Args:
        model: as for `VisionTokenPruner.__call__`, outside any pruning.
        inputs: what its processor made: `pixel_values` and whatever else describes pictures.
        layers: tower layers whose output is kept, for `Sight.even_rows`.

    Raises:
        InputError: another model, or inputs without pictures.
    """
    anatomy = locate(model)
    if inputs.get("pixel_values") is None:
        raise InputError("inputs hold no pixel_values: give what the processor makes of a picture and a text")
    names = inspect.signature(anatomy.base.get_image_features).parameters
    pixels = {name: inputs[name] for name in names if name in inputs}
    encoder = Encoder(anatomy, [_observer(anatomy)], Clock(anatomy.base.device))
    hidden: dict[int, Tensor] = {}
    with Undo() as undo, torch.no_grad():
        encoder.attach(undo)
        for layer in layers:
            undo.after(anatomy.tower_layers[layer], _keeping(hidden, layer))
        anatomy.base.get_image_features(**pixels, return_dict=True)
    return Sight(model, encoder, hidden)


def _observer(anatomy: Anatomy) -> VisionTokenPruner:
    """Asks for all that this tower can tell."""
    if anatomy.tower is None:
        return VisionTokenPruner()
    return _Scores() if anatomy.tower.packed else _Tower()


def _keeping(hidden: dict[int, Tensor], layer: int) -> Any:
    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        hidden[layer] = output[0] if isinstance(output, tuple) else output

    return hook
