"""Several pruners on one prompt, one after another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner


@dataclass(frozen=True, init=False)
class PrunerChain(VisionTokenPruner):
    """Each pruner sees what the one before it left: `PrunerChain([DivPrune(keep=0.5), FastV(keep=0.25)])`.

    `keep`, `order` and `scope` are those of each part; `positions` must be the same for all. At most one part
    may merge in the vision tower, and only one prune after any layer.

    Args:
        pruners: at least one; chains among them are taken apart.

    Raises:
        InputError: none, or something that is no pruner.
    """

    pruners: tuple[VisionTokenPruner, ...] = ()

    def __init__(self, pruners: Iterable[VisionTokenPruner]) -> None:
        given = tuple(pruners)
        if not given or not all(isinstance(one, VisionTokenPruner) for one in given):
            raise InputError(f"pruners={given!r} must be one or more VisionTokenPruner objects")
        parts = tuple(part for one in given for part in one.parts)
        for name, value in (("pruners", parts), ("positions", parts[0].positions)):
            object.__setattr__(self, name, value)

    @property
    def parts(self) -> tuple[VisionTokenPruner, ...]:
        return self.pruners
