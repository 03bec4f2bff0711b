"""`ImageTokens`: what a tokenizer makes of images, and what a generator predicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from visgen.errors import InputError, shown

SCHEMA = 1  # of the on-disk token shard


@dataclass(frozen=True)
class Grid:
    """A raster of h × w positions, row by row."""

    h: int
    w: int

    @property
    def length(self) -> int:
        return self.h * self.w


@dataclass(frozen=True)
class Scales:
    """Rasters of growing size one after another: ((h, w), …)."""

    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def square(cls, sides: Sequence[int]) -> Scales:
        """Square scales from their sides: (1, 2, 3) → ((1, 1), (2, 2), (3, 3))."""
        return cls(tuple((int(side), int(side)) for side in sides))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions of each scale."""
        return tuple(h * w for h, w in self.sizes)

    @property
    def length(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True)
class Sequence1D:
    """n positions without a place in the image."""

    n: int

    @property
    def length(self) -> int:
        return self.n


Layout = Grid | Scales | Sequence1D
_LAYOUTS = {"grid": Grid, "scales": Scales, "sequence": Sequence1D}


def _layout_to_json(layout: Layout) -> str:
    kind = next(name for name, cls in _LAYOUTS.items() if isinstance(layout, cls))
    return json.dumps({"kind": kind, **{f.name: getattr(layout, f.name) for f in fields(layout)}})


def _layout_from_json(text: str) -> Layout:
    data = json.loads(text)
    kind = data.pop("kind")
    if kind == "scales":
        data = {"sizes": tuple((int(h), int(w)) for h, w in data["sizes"])}
    sides = [side for size in data.get("sizes", [data.values()]) for side in size]
    if not sides or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError("its sides are no positive integers")
    return _LAYOUTS[kind](**data)


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """A batch of tokenised images.

    Args:
        ids: int64 (B, L), or (B, L, K) when a position has K sub-codes; None for continuous tokens.
        latents: float (B, L, D); None for discrete tokens.
        mask: bool (B, L), True = present; None = all present. The active set need not be a prefix.
        layout: where the L positions stand in the image.

    Raises:
        InputError: not exactly one of ids and latents, other types or dimensions, or lengths that disagree.
    """

    layout: Layout
    ids: Tensor | None = None
    latents: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.ids is None) == (self.latents is None):
            raise InputError("ImageTokens needs exactly one of ids and latents")
        self._check_types()
        if self.values.shape[1] != self.layout.length:
            raise InputError(
                f"{self.values.shape[1]} tokens do not fit the layout {self.layout} of {self.layout.length}"
            )
        if self.mask is not None and self.mask.shape != self.values.shape[:2]:
            raise InputError(f"mask of shape {tuple(self.mask.shape)} must be {tuple(self.values.shape[:2])}")

    def _check_types(self) -> None:
        values, kind = self.values, "ids" if self.latents is None else "latents"
        good = values.dtype == torch.int64 if kind == "ids" else values.is_floating_point()
        if not good or values.ndim not in ((2, 3) if kind == "ids" else (3,)):
            wanted = "int64 (B, L) or (B, L, K)" if kind == "ids" else "floats (B, L, D)"
            raise InputError(f"{kind} are {values.dtype} of shape {tuple(values.shape)}; give {wanted}")
        if self.mask is not None and self.mask.dtype != torch.bool:
            raise InputError(f"mask is {self.mask.dtype}; give bool, True = present")

    @property
    def values(self) -> Tensor:
        """The ids or the latents, whichever there is."""
        return self.ids if self.ids is not None else self.latents

    @property
    def lengths(self) -> Tensor:
        """Number of present tokens of each image, int64 (B,)."""
        if self.mask is None:
            return torch.full((len(self),), self.layout.length)
        return self.mask.sum(-1)

    def __len__(self) -> int:
        return self.values.shape[0]

    def _map(self, function: Callable[[Tensor], Tensor]) -> ImageTokens:
        ids, latents, mask = (None if t is None else function(t) for t in (self.ids, self.latents, self.mask))
        return ImageTokens(self.layout, ids, latents, mask)

    def __getitem__(self, rows: int | slice | Tensor | Sequence[int]) -> ImageTokens:
        """Some rows; an int keeps the batch dimension."""
        index = [rows] if isinstance(rows, int) else rows
        return self._map(lambda t: t[index])

    def to(self, device: torch.device | str) -> ImageTokens:
        """The same tokens on another device."""
        return self._map(lambda t: t.to(device))

    def per_scale(self) -> Iterator[Tensor]:
        """The values of each scale, (B, h·w[, …]); needs a `Scales` layout."""
        if not isinstance(self.layout, Scales):
            raise InputError(f"per_scale() needs a Scales layout, not {self.layout}")
        return iter(self.values.split(self.layout.lengths, dim=1))

    @staticmethod
    def cat(parts: Sequence[ImageTokens]) -> ImageTokens:
        """Join batches of one layout; a missing mask counts as all present beside others.

        Raises:
            InputError: layouts, or ids and latents, are mixed.
        """
        first = parts[0]
        if any(part.layout != first.layout or (part.ids is None) != (first.ids is None) for part in parts):
            raise InputError("only tokens of one layout and one kind can be joined")
        values = torch.cat([part.values for part in parts])
        mask = None
        if any(part.mask is not None for part in parts):
            mask = torch.cat([part._full_mask() for part in parts])
        if first.ids is not None:
            return ImageTokens(first.layout, ids=values, mask=mask)
        return ImageTokens(first.layout, latents=values, mask=mask)

    def _full_mask(self) -> Tensor:
        if self.mask is not None:
            return self.mask
        return torch.ones(self.values.shape[:2], dtype=torch.bool, device=self.values.device)

    def state_dict(self) -> dict[str, Tensor]:
        """The on-disk shard, for safetensors: the tensors, and schema and layout as bytes."""
        header = json.dumps({"schema": SCHEMA, "layout": _layout_to_json(self.layout)}).encode()
        out = {"header": torch.tensor(list(header), dtype=torch.uint8)}
        tensors = {name: getattr(self, name) for name in ("ids", "latents", "mask")}
        return out | {name: t.contiguous() for name, t in tensors.items() if t is not None}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> ImageTokens:
        """Read a shard back; raises `InputError` on another schema version, or what is no shard."""
        if surplus := sorted(state.keys() - {"header", "ids", "latents", "mask"}):
            raise InputError(
                f"token shard holds {surplus[0]!r}; only header, ids, latents and mask are known"
            )
        schema, layout = _read_header(state)
        if schema != SCHEMA:
            raise InputError(f"token shard of schema {schema!r}: this version reads schema {SCHEMA}")
        try:
            stands = _layout_from_json(layout)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"token shard of layout {shown(layout)} cannot be read ({error!r})") from error
        return cls(stands, **{name: state.get(name) for name in ("ids", "latents", "mask")})


def _read_header(state: dict[str, Tensor]) -> tuple[Any, Any]:
    """Schema and layout of a shard."""
    try:
        header = json.loads(bytes(state["header"].tolist()))
        return header["schema"], header["layout"]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"token shard has no readable header ({error!r}); give one that ImageTokens.state_dict made"
        ) from error
