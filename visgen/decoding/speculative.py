"""Speculative decoding with a drafter model: lossless (EAGLE, arXiv 2401.15077; EAGLE-2, 2406.16858)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from visgen.decoding.base import DecodingStats, DecodingStrategy, Law, Resources, Session, Verifier
from visgen.decoding.drafts.shape import DraftShape, Kind
from visgen.decoding.engine import decode
from visgen.decoding.verifiers import BlockVerifier, RecursiveVerifier
from visgen.nn.noise import Noise


@dataclass(frozen=True)
class Speculative(DecodingStrategy):
    """A small drafter guesses several tokens ahead, the model verifies them in one pass.

    The result has the law of sequential sampling, whatever the drafter is worth: drafts of a dynamic tree are
    deterministic, those of a static tree are drawn without replacement, and both are tested accordingly.

    Args:
        tree, tokens, depth, top_k, shape: see `DraftShape`.
    """

    tree: Kind = "chain"
    tokens: int | None = None
    depth: int | None = None
    top_k: int | None = None
    shape: str = "naive_extend_57"

    lossless = True
    main_option = "tokens"

    def __post_init__(self) -> None:
        self.drafts  # noqa: B018 # raises on bad options

    @property
    def drafts(self) -> DraftShape:
        """Form and size of the drafts of a pass."""
        return DraftShape(self.tree, self.tokens, self.depth, self.top_k, self.shape)

    @property
    def entries(self) -> int:
        return self.drafts.entries

    def __call__(
        self, session: Session, law: Law, noise: Noise, resources: Resources | None = None
    ) -> tuple[Tensor, DecodingStats]:
        verifier: Verifier = BlockVerifier() if self.tree == "chain" else RecursiveVerifier(replacement=False)
        return decode(session, law, noise, self.drafts.source(session, resources, "speculative"), verifier)
