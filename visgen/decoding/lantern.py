"""LANTERN: speculative decoding that also accepts near neighbours of what the model would draw; not lossless.

Sources: LANTERN (ICLR 2025, arXiv 2410.03355; bound on moved probability), LANTERN++ (SCOPE 2025, arXiv
2502.06352; static trees, bound relative to the draft's own probability). The same acceptance serves Jacobi
drafts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from visgen.decoding.base import (
    DecodingStats,
    DecodingStrategy,
    DraftSource,
    Law,
    Resources,
    Session,
    Verifier,
)
from visgen.decoding.drafts.fresh import make_fresh
from visgen.decoding.drafts.jacobi import JacobiSource
from visgen.decoding.drafts.shape import DraftShape, Kind
from visgen.decoding.drafts.window import WindowShape
from visgen.decoding.engine import decode
from visgen.decoding.jacobi import CPU_WINDOW, GPU_WINDOW
from visgen.decoding.relaxed import RelaxedVerifier, neighbour_table
from visgen.errors import InputError
from visgen.nn.noise import Noise

Drafts = Literal["drafter", "jacobi"]


@dataclass(frozen=True)
class Lantern(DecodingStrategy):
    """A draft is accepted with its own probability and that of its nearest codes, up to a bound.

    Args:
        delta: up to 1, the most probability that a draft may be lent (a bound on the total variation);
            above 1, delta − 1 is the most in units of its own (LANTERN++). 0 lends nothing.
        k: neighbours that may lend.
        drafts: "drafter", "jacobi" (the model's own window, no second model), or None = the drafter if there
            is one.
        window: entries per pass of Jacobi drafts; None = 8 on a CPU and 32 elsewhere.
        tree, tokens, depth, top_k, shape: of the drafter's drafts, see `DraftShape`.

    Raises:
        InputError: a value out of range.
    """

    delta: float = 0.1
    k: int = 1000
    drafts: Drafts | None = None
    window: int | None = None
    tree: Kind = "dynamic"
    tokens: int | None = None
    depth: int | None = None
    top_k: int | None = None
    shape: str = "naive_extend_57"

    lossless = False
    main_option = "delta"

    def __post_init__(self) -> None:
        if not 0 <= self.delta < float("inf"):
            raise InputError(f"delta={self.delta} must be a number of 0 or more; 0.1 is usual")
        if self.k < 0:
            raise InputError(f"k={self.k} must be 0 or more neighbours")
        if self.drafts not in (None, "drafter", "jacobi"):
            raise InputError(f"drafts={self.drafts!r} must be 'drafter', 'jacobi' or None")
        if self.window is not None and self.window < 1:
            raise InputError(f"window={self.window} must be 1 or more entries, or None")
        self._shape  # noqa: B018 # raises on bad options

    @property
    def _shape(self) -> DraftShape:
        return DraftShape(self.tree, self.tokens, self.depth, self.top_k, self.shape)

    @property
    def entries(self) -> int:
        window = self.window or GPU_WINDOW
        if self.drafts is None:
            return max(window, self._shape.entries)
        return window if self.drafts == "jacobi" else self._shape.entries

    def __call__(
        self, session: Session, law: Law, noise: Noise, resources: Resources | None = None
    ) -> tuple[Tensor, DecodingStats]:
        source = self._source(session, resources)
        return decode(session, law, noise, source, self._verifier(session, resources))

    def _source(self, session: Session, resources: Resources | None) -> DraftSource:
        has_drafter = resources is not None and resources.drafter is not None
        if self.drafts == "drafter" or (self.drafts is None and has_drafter):
            return self._shape.source(session, resources, "lantern")
        window = self.window or (CPU_WINDOW if session.device.type == "cpu" else GPU_WINDOW)
        shape = WindowShape.build(window).to(session.device)
        fresh = make_fresh("law", shape.length, session.length, resources.grid if resources else None)
        return JacobiSource(shape, "maximal", fresh)

    def _verifier(self, session: Session, resources: Resources | None) -> Verifier:
        codebook = None if resources is None else resources.codebook
        if codebook is None:
            raise InputError(
                "codebook=None: strategy 'lantern' compares codes; it needs the tokenizer's codebook"
            )
        if len(codebook) != session.vocab_size - getattr(session, "num_format_ids", 0):
            raise InputError(
                f"codebook of {len(codebook)} codes does not fit a model of {session.vocab_size} ids"
            )
        k = min(self.k, len(codebook) - 1)
        table = _table(codebook, k).to(session.device)
        return RelaxedVerifier(table, k, self.delta)  # type: ignore[return-value] # `lossless` is read-only


# Tables of codebooks that are still alive: one of 16,384 codes takes seconds to make.
_TABLES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _table(codebook_VD: Tensor, k: int) -> Tensor:
    """`neighbour_table`, made once per codebook and k as long as the codebook is not written to."""
    key = (k, codebook_VD._version)
    known: dict[tuple[int, int], Tensor] = _TABLES.get(codebook_VD, {})
    if key not in known:
        _TABLES[codebook_VD] = known = {key: neighbour_table(codebook_VD, k)}
    return known[key]
