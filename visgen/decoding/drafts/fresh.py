"""Laws of drafts that have no past: the slots that move into a Jacobi window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.decoding.base import Run
from visgen.errors import InputError

INITS = ("uniform", "random", "left", "above", "law", "law-above")


class Fresh(ABC):
    """Says what new drafts are drawn from; anything that is known before they are drawn will do."""

    def see(self, run: Run, positions_BM: Tensor, laws: Tensor) -> None:  # noqa: B027 # most need nothing
        """Laws (B, M, K, V) that the last pass gave for positions, the newest of them the last one."""

    @abstractmethod
    def laws(self, run: Run, positions_BC: Tensor) -> Tensor:
        """(B, C, K, V), or what expands to it."""


class Uniform(Fresh):
    """All ids alike: accepted with probability Σ min(p, 1/V)."""

    def laws(self, run: Run, positions_BC: Tensor) -> Tensor:
        v = run.session.vocab_size
        return torch.full((1, 1, 1, v), 1.0 / v, device=run.ids.device)


class Random(Fresh):
    """A uniform id that is taken for certain, as published; nearly never accepted."""

    def laws(self, run: Run, positions_BC: Tensor) -> Tensor:
        return _certain(_random_ids(run, positions_BC), run)


class Neighbour(Fresh):
    """The token to the left or above, taken for certain; what is not decided yet counts as the last one that
    is.

    Where the grid has no such neighbour, a random id (Teng et al. 2024).
    """

    def __init__(self, back: int, columns: int, *, above: bool) -> None:
        self._back, self._columns, self._above = back, columns, above

    def laws(self, run: Run, positions_BC: Tensor) -> Tensor:
        at = torch.minimum(positions_BC - self._back, run.counts[:, None] - 1)
        known = at >= 0 if self._above else positions_BC % self._columns > 0
        ids = run.ids.gather(1, at.clamp(min=0)[..., None].expand(-1, -1, run.ids.shape[2]))
        return _certain(torch.where(known[..., None], ids, _random_ids(run, positions_BC)), run)


class LastLaw(Fresh):
    """The law of the last slot that has one, drawn from anew."""

    def see(self, run: Run, positions_BM: Tensor, laws: Tensor) -> None:
        self._last = laws[:, -1:]

    def laws(self, run: Run, positions_BC: Tensor) -> Tensor:
        return self._last


class LawAbove(Fresh):
    """The last law seen of the position one row above; in the first row that of the window's last slot.

    A ring of one row and one window of laws is kept, float32.
    """

    def __init__(self, stride: int, window: int) -> None:
        self._stride, self._size = stride, stride + window + 1
        self._ring: Tensor | None = None

    def see(self, run: Run, positions_BM: Tensor, laws: Tensor) -> None:
        if self._ring is None:
            self._ring = laws[:, -1:].repeat(1, self._size, 1, 1)
        rows = torch.arange(len(laws), device=laws.device)[:, None]
        self._ring[rows, positions_BM % self._ring.shape[1]] = laws
        self._last, self._newest = laws[:, -1:], positions_BM[:, -1:]

    def laws(self, run: Run, positions_BC: Tensor) -> Tensor:
        assert self._ring is not None  # `see` comes first
        above = positions_BC - self._stride
        rows = torch.arange(len(above), device=above.device)[:, None]
        known = (above >= 0) & (above <= self._newest)
        return torch.where(known[..., None, None], self._ring[rows, above % self._ring.shape[1]], self._last)


def make_fresh(init: str, window: int, length: int, grid: tuple[int, int] | None) -> Fresh:
    """The rule of that name for windows of `window` drafts and images of `length` tokens.

    Raises:
        InputError: it needs a grid and there is none.
    """
    plain: dict[str, Callable[[], Fresh]] = {"uniform": Uniform, "random": Random, "law": LastLaw}
    if init in plain:
        return plain[init]()
    if grid is None:
        raise InputError(f"init={init!r} needs a grid of tokens; use one of {', '.join(plain)}")
    stride = length // grid[0]  # line ends count as columns
    if init == "law-above":
        return LawAbove(stride, window)
    return Neighbour(1 if init == "left" else stride, stride, above=init == "above")


def _random_ids(run: Run, positions_BC: Tensor) -> Tensor:
    v = run.session.vocab_size
    u = run.noise.uniform(*positions_BC.shape, run.ids.shape[2], device=run.ids.device)
    return (u * v).long().clamp_(max=v - 1)


def _certain(ids: Tensor, run: Run) -> Tensor:
    return F.one_hot(ids, run.session.vocab_size).float()
