"""What next-token generators have in common: sessions for the decoding engine, and `generate` upon them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visgen.decoding.base import DecodingStrategy, Resources, Session, Step
from visgen.decoding.making import make_strategy
from visgen.errors import InputError
from visgen.generators.base import (
    GenerationRequest,
    GenerationResult,
    GenerationStep,
    ImageGenerator,
    OnStep,
)
from visgen.generators.conditions import Condition
from visgen.nn.law import SequenceLaw
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import ImageTokens


@dataclass(frozen=True, eq=False)
class StrategyRequest:
    """How to decode: a strategy by name ("sjd", "sjd:32") or itself, its options, and a drafter if there is
    one."""

    strategy: str | DecodingStrategy = "sequential"
    options: Mapping[str, Any] | None = None
    drafter: Any = None


class NextTokenGenerator(ImageGenerator):
    """Mixin of generators that predict one position after another."""

    @abstractmethod
    def session(self, condition: Condition, sampling: TokenSampling, entries: int) -> Session:
        """A session of one batch; `entries` is the largest number of tokens fed at once. Models that can stop
        early take `length` too, the number of positions."""

    @abstractmethod
    def from_positions(self, ids_BLK: Tensor) -> ImageTokens:
        """Image tokens of the ids of all positions."""

    def forced(self) -> Tensor | None:
        """Int64 (L,): the only id that the format allows at each position, -1 = free; None = all free."""
        return None

    def known_positions(self, tokens: ImageTokens, keep_BHW: Tensor) -> Tensor:
        """Int64 (B, L, K): ids that are kept in editing, -1 where a new one is drawn.

        Args:
            tokens: of the source.
            keep_BHW: bool (B or 1, h, w) over the token grid, True = kept.
        """
        ids = self.as_positions(tokens)  # type: ignore[attr-defined]
        return torch.where(self.mask_positions(keep_BHW.flatten(1).to(ids.device)), ids, -1)

    def mask_positions(self, mask_BL: Tensor) -> Tensor:
        """A bool mask over the token grid (B, h·w) by position, (B, L, K or 1)."""
        return mask_BL[..., None]

    @torch.no_grad()
    def generate(
        self,
        request: GenerationRequest,
        *,
        quantizer: Any = None,
        strategy: StrategyRequest | DecodingStrategy | str | None = None,
        on_step: OnStep | None = None,
    ) -> GenerationResult:
        """Generate a batch.

        Args:
            quantizer: the tokenizer's; strategies that compare codes need its codebook.
            strategy: how tokens are drawn; None = one by one.
            on_step: called after every pass that keeps tokens.

        Raises:
            InputError: another kind of sampling or layout, a number of tokens that this model cannot stop at,
                or a strategy that it cannot run.
        """
        if not isinstance(request.sampling, TokenSampling):
            raise InputError(f"sampling must be a TokenSampling, not {type(request.sampling).__name__}")
        if request.layout not in (None, self.layout):  # type: ignore[attr-defined]
            raise InputError(f"layout={request.layout} is not the model's, {self.layout}")  # type: ignore[attr-defined]
        self.check_num_tokens(request.num_tokens)
        wanted = (
            strategy if isinstance(strategy, StrategyRequest) else StrategyRequest(strategy or "sequential")
        )
        decode = make_strategy(wanted.strategy, wanted.options)
        length = {} if request.num_tokens is None else {"length": request.num_tokens}
        session = self.session(request.condition, request.sampling, decode.entries, **length)
        if on_step is not None:
            session = ReportingSession(session, on_step)
        resources = Resources(_codebook(quantizer), wanted.drafter, self._grid())
        ids, stats = decode(session, self._law(request), request.noise, resources)
        return GenerationResult(self.from_positions(ids), stats.to_dict())

    def _law(self, request: GenerationRequest) -> SequenceLaw:
        forced = self.forced()
        if request.known is not None:
            forced = self.known_positions(*request.known)
        return SequenceLaw(request.sampling, forced)

    def _grid(self) -> tuple[int, int] | None:
        return getattr(self, "positions", None)


def _codebook(quantizer: Any) -> Tensor | None:
    embedding = getattr(quantizer, "embedding", None)
    return None if embedding is None else embedding.weight


class ReportingSession(Session):
    """A session that tells after each commit how far the batch is.

    A step's index counts kept tokens of the row that is furthest behind.
    """

    def __init__(self, session: Session, on_step: OnStep) -> None:
        self._session, self._on_step = session, on_step
        self._reported = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def prefill(self) -> Step:
        return self._session.prefill()

    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        return self._session.extend(tokens_BNK, parents_BN)

    def commit(self, index_BM: Tensor, counts_B: Tensor) -> None:
        self._session.commit(index_BM, counts_B)
        done = min(int(self._session.committed.min()), self._session.length)
        for index in range(self._reported, done):
            self._on_step(GenerationStep(index, self._session.length, None, None))
        self._reported = max(self._reported, done)
