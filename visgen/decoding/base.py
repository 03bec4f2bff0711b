"""The contracts of decoding: sessions of a next-token model, drafts, verifiers, draft sources, strategies.

Everything is batched by image: B rows, N entries fed at once, K sub-codes per position (1 for most models,
s² for Token-Shuffle), V ids per sub-code. A pass feeds entries 0 … N: entry 0 is the *root*, the last token
that is decided but not yet in the cache; entries 1 … N are drafts in a tree below it. Row by row, the
accepted path and one extra token are kept. Nothing that one row does depends on another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from visgen.nn.noise import Noise


@dataclass(frozen=True, eq=False)
class Step:
    """What one pass says.

    Attributes:
        logits: (B, N, K, V) float32, guided, of the token that follows each fed entry.
        hidden: (R, N, D) final hidden states, the input of the head; R = B, or 2B with guidance (conditional
            rows first). None where the model does not give them.
    """

    logits: Tensor
    hidden: Tensor | None = None


class Session(ABC):
    """One generation of a batch: owns the cache and the unconditional rows, and belongs to the call.

    Attributes:
        batch_size: B, images.
        length: tokens (positions) of one image.
        num_codes: K, sub-codes per position.
        vocab_size: V, ids per sub-code.
        device: of logits and ids.
        committed: (B,) int64, how many tokens of each row are in the cache.
        passes: forward passes so far, the prefill included.
    """

    batch_size: int
    length: int
    num_codes: int
    vocab_size: int
    device: torch.device
    committed: Tensor
    passes: int

    @abstractmethod
    def prefill(self) -> Step:
        """Run the condition; logits (B, 1, K, V) of the first token. Called once, first."""

    @abstractmethod
    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        """Score N entries in one pass; nothing is kept until `commit`.

        Args:
            tokens_BNK: int64 ids.
            parents_BN: index of each entry's parent among these entries, -1 = the committed tokens; parents
                come before children. None = a chain. An entry sees the committed tokens, its ancestors and
                itself; its position is `committed` + its depth. Positions beyond `length` are clamped: what
                is said of them must not be used.
        """

    @abstractmethod
    def commit(self, index_BM: Tensor, counts_B: Tensor) -> None:
        """Keep, of the last `extend`, the first `counts_B` entries of each row's `index_BM`, in this order.

        The index must be a path: each entry the parent of the next. Everything else is dropped. A chain's
        prefix (index 0, 1, 2, …) costs O(1), another path a move of its entries.
        """


class Law(Protocol):
    """Sampling law of the tokens at given positions: guidance is done, everything else happens here."""

    def __call__(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Probabilities (B, N, K, V) float32 of logits (B, N, K, V); positions (B, N) int64 = index of the
        token that is predicted."""

    def forced(self, positions: Tensor) -> Tensor:
        """(B, N, K) int64, or (B, N, 1) for all sub-codes alike: the only id allowed at these positions, or
        -1."""


@dataclass(frozen=True, eq=False)
class Draft:
    """Entries 1 … N of the next pass, below the root (entry 0).

    Attributes:
        tokens: (B, N, K) int64.
        parents: (B, N) int64, *entry* number of each draft's parent: 0 = the root, i = draft i − 1; always
            smaller than the draft's own entry number. Siblings are tested in the order of their numbers.
        laws: (B, N, K, V) float32, the law each draft was drawn from, before the removal of siblings; None =
            every draft is deterministic (a one-hot law).
        valid: (B, N) bool, False = padding: never tested.
    """

    tokens: Tensor
    parents: Tensor
    laws: Tensor | None
    valid: Tensor

    @classmethod
    def chain(cls, tokens_BNK: Tensor, laws: Tensor | None, valid: Tensor | None = None) -> Draft:
        """Drafts in one line below the root."""
        b, n = tokens_BNK.shape[:2]
        parents = torch.arange(n, device=tokens_BNK.device).expand(b, n)
        if valid is None:
            valid = torch.ones(b, n, dtype=torch.bool, device=tokens_BNK.device)
        return cls(tokens_BNK, parents, laws, valid)

    @property
    def is_chain(self) -> bool:
        """Whether every draft hangs on the one before it."""
        n = self.parents.shape[1]
        return bool((self.parents == torch.arange(n, device=self.parents.device)).all())

    @property
    def depths(self) -> Tensor:
        """(B, N) int64, 1 = child of the root."""
        depths = torch.zeros(len(self.parents), self.parents.shape[1] + 1, dtype=torch.long)
        depths = depths.to(self.parents.device)
        for entry in range(1, depths.shape[1]):
            parent = self.parents[:, entry - 1 : entry]
            depths[:, entry] = depths.gather(1, parent).squeeze(1) + 1
        return depths[:, 1:]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a verifier decided.

    Attributes:
        path: (B, D) int64, entry numbers of the accepted drafts in order; what lies beyond `accepted` is
            anything.
        accepted: (B,) int64, drafts accepted, 0 … D.
        extra: (B, K) int64, the token after the last accepted one.
        tested: (B, D) bool, True where the draft position `depth − 1` had a test (for statistics).
    """

    path: Tensor
    accepted: Tensor
    extra: Tensor
    tested: Tensor


class Verifier(Protocol):
    """Decides how far a draft is right, so that what is kept has the target's law."""

    lossless: bool

    def __call__(self, target_BNKV: Tensor, draft: Draft, noise: Noise) -> Verdict:
        """`target_BNKV` (B, 1 + N, K, V): law of the token that follows each entry, the root first. Draws are
        of a fixed number per row and call, whatever is accepted."""


@dataclass(eq=False)
class Run:
    """State of one decoding: what draft sources may look at.

    Attributes:
        session, law, noise: of the call.
        ids: (B, L, K) int64, tokens decided so far.
        counts: (B,) int64, how many; the last of them is the root.
        done: (B,) bool.
    """

    session: Session
    law: Law
    noise: Noise
    ids: Tensor
    counts: Tensor

    @property
    def done(self) -> Tensor:
        return self.counts >= self.ids.shape[1]

    @property
    def root(self) -> Tensor:
        """(B, K) int64, the last decided token of each row."""
        index = (self.counts - 1)[:, None, None].expand(-1, 1, self.ids.shape[2])
        return self.ids.gather(1, index).squeeze(1)


class DraftSource(ABC):
    """Proposes drafts and learns from what became of them. Belongs to one decoding."""

    draft_passes: int = 0

    def start(self, run: Run, step: Step, target_B1KV: Tensor) -> None:  # noqa: B027 # most need nothing
        """After the prefill, its law and the first token; `run.counts` is 1 everywhere."""

    @abstractmethod
    def propose(self, run: Run) -> Draft:
        """The next drafts; their number N is the same in every pass and every row."""

    def update(self, run: Run, draft: Draft, step: Step, target_BNKV: Tensor, verdict: Verdict) -> None:  # noqa: B027
        """After a verdict; `run.ids` and `run.counts` hold what was kept, the extra token included."""


@dataclass(frozen=True, eq=False)
class DecodingStats:
    """What a decoding took.

    Attributes:
        passes: forward passes of the model until each image was done, the prefill included; one per image.
        tokens: tokens (positions) per image.
        draft_passes: forward passes of a drafter.
        tested, accepted: per position of the image, how often a draft was tested there and accepted.
        seconds: of the whole batch.
        lossless: whether the result has the law of sequential sampling.
    """

    passes: tuple[int, ...]
    tokens: int
    lossless: bool
    seconds: float
    draft_passes: int = 0
    tested: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()

    @property
    def tokens_per_pass(self) -> float:
        """Mean over the images: 1 for sequential decoding."""
        return self.tokens * len(self.passes) / max(1, sum(self.passes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "passes": list(self.passes),
            "tokens": self.tokens,
            "tokens_per_pass": self.tokens_per_pass,
            "draft_passes": self.draft_passes,
            "tested": list(self.tested),
            "accepted": list(self.accepted),
            "seconds": self.seconds,
            "lossless": self.lossless,
        }


@dataclass(frozen=True, eq=False)
class Resources:
    """What a strategy may need of the models around it.

    Attributes:
        codebook: (V, D) code vectors of the tokenizer, for neighbour tables; or None.
        drafter: a model with `session(target_session) -> DrafterSession`, or None.
        grid: (h, w) of the token grid that is generated, or None for models without one.
    """

    codebook: Tensor | None = None
    drafter: Any = None
    grid: tuple[int, int] | None = None


class DecodingStrategy(ABC):
    """How tokens are drawn from a session: one at a time, or several per pass.

    A strategy is a dataclass of plain options; `NAME:VALUE` on the command line sets the option that
    `main_option` names.
    """

    lossless: bool
    main_option: str | None = None

    @property
    @abstractmethod
    def entries(self) -> int:
        """Entries of the largest pass, root included: what the session's cache must hold beyond the
        tokens."""

    @abstractmethod
    def __call__(
        self, session: Session, law: Law, noise: Noise, resources: Resources | None = None
    ) -> tuple[Tensor, DecodingStats]:
        """Ids (B, L, K) int64 and what drawing them took."""
