"""One drafting beside one generation: the drafter's cache, and hidden states of the target coming in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.decoding.base import Step
from visgen.errors import InputError
from visgen.nn.slot_cache import SlotCache

if TYPE_CHECKING:
    from visgen.generators.drafter import Drafter

Embed = Callable[[Tensor], Tensor]  # ids (B, N, K) -> (R, N, C)
Head = Callable[[Tensor, Tensor], Tensor]  # hidden states (R, N, C), positions (B, N) -> logits (B, N, K, V)


class DraftTarget(Protocol):
    """What a drafter takes from the session of its target, beyond the hidden states of its steps.

    Attributes:
        length: tokens of one image.
        hidden_size: C, width of the final hidden states.
        padding: (R, P) bool, True = condition positions that others do not see; or None.
    """

    length: int
    hidden_size: int
    padding: Tensor | None

    def embed(self, tokens_BNK: Tensor) -> Tensor:
        """Input vectors (R, N, C) of image tokens; R = 2B with guidance, the conditional rows first."""
        ...

    def head(self, hidden_RNC: Tensor, positions_BN: Tensor) -> Tensor:
        """Guided logits (B, N, K, V) float32 of final hidden states; positions = index of the token that is
        predicted, which guidance may depend on."""
        ...


class DrafterSession:
    """What the drafter says of the tokens to come, for a batch; rows advance at their own pace.

    Args:
        model: the drafter.
        embed, head: of the target, see `DraftTarget`.
        length: L, tokens of one image.
        entries: drafted inputs that may wait in the cache beyond the decided tokens.
        padding: (R, P) bool, True = condition positions that others do not see; or None.
        offsets: (R,) int64 taken off the positions of a row (left-padded conditions); or None.
    """

    def __init__(
        self,
        model: Drafter,
        embed: Embed,
        head: Head,
        length: int,
        entries: int,
        *,
        padding: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> None:
        self.model, self.embed, self.head = model, embed, head
        self.passes = 0
        self._length, self._entries, self._offsets = length, entries, offsets
        self._padding = padding
        self._cache: SlotCache
        self._counts: Tensor  # (B,) decided tokens

    @classmethod
    def beside(cls, model: Drafter, target: DraftTarget, entries: int) -> DrafterSession:
        """A session with the head of a target's session, and its embedding unless the drafter has one."""
        missing = [name for name in ("embed", "head", "length", "hidden_size") if not hasattr(target, name)]
        if missing:
            raise InputError(
                f"drafter: a {type(target).__name__} has no {missing[0]}; drafters stand beside models that "
                "give their final hidden states"
            )
        if target.hidden_size != model.config.hidden_size:
            raise InputError(
                f"drafter of hidden_size={model.config.hidden_size} does not fit a target of "
                f"{target.hidden_size}; it must be the one trained for this model"
            )
        return cls(model, target.embed, target.head, target.length, entries, padding=target.padding)

    @torch.no_grad()
    def start(self, hidden_RPC: Tensor, root_BK: Tensor, prefix_RPC: Tensor | None = None) -> Step:
        """Take in the condition and the first token.

        Args:
            hidden_RPC: the target's final hidden states at all P condition positions.
            root_BK: the token drawn from the last of them.
            prefix_RPC: (R, P − 1, C) embeddings of condition positions 1 … P − 1; None = those of id 0, as
                LlamaGen's drafter was trained.

        Returns:
            Logits (B, 1, K, V) of the second token, and the estimate (R, 1, C) they are of.
        """
        rows, prefix = hidden_RPC.shape[0], hidden_RPC.shape[1] - 1
        root = self.embed(root_BK[:, None])
        if prefix_RPC is None:
            prefix_RPC = self.embed(torch.zeros_like(root_BK)[:, None].expand(-1, prefix, -1))
        self._cache = self._allocate(rows, prefix, hidden_RPC)
        embeddings = torch.cat([prefix_RPC, root], dim=1)
        steps = torch.arange(prefix + 1, device=hidden_RPC.device)
        hidden = self._run(embeddings, hidden_RPC, steps, self._seen(prefix + 1))
        self._cache.keep(torch.full((rows,), prefix + 1, device=hidden.device))
        self._counts = torch.ones(len(root_BK), dtype=torch.long, device=hidden.device)
        return self._say(hidden[:, -1:], self._counts[:, None])

    def _seen(self, length: int) -> Tensor | None:
        """Bool (R, P, P): which inputs of the condition see which; each sees itself. None = a chain."""
        if self._padding is None:
            return None
        return visible_mask(self._padding[:, : length - 1], length)

    def _allocate(self, rows: int, prefix: int, like: Tensor) -> SlotCache:
        config = self.model.config
        hidden = None if self._padding is None else self._padding[:, :prefix]
        return SlotCache(
            config.depth,
            rows,
            config.num_kv_heads,
            prefix + self._length + self._entries,
            config.hidden_size // config.num_heads,
            dtype=like.dtype,
            device=like.device,
            hidden=hidden,
        )

    @torch.no_grad()
    def extend(
        self, tokens_BNK: Tensor, hidden_RNC: Tensor, depth: int, ancestors_BNM: Tensor, *, append: bool
    ) -> Step:
        """Draft below N tokens; nothing is kept.

        Args:
            tokens_BNK: drafted ids, all at one depth.
            hidden_RNC: estimates that they were drawn from, one per token.
            depth: 1 = children of the last decided token.
            ancestors_BNM: bool (B, N, M + N), what of the M drafted inputs before and of these each may see.
            append: False = these are the first (M = 0); True = more, behind those of earlier calls.

        Returns:
            Logits (B, N, K, V) of their children, and the estimates (R, N, C) they are of.
        """
        rows, n = hidden_RNC.shape[:2]
        ancestors = ancestors_BNM.repeat(rows // len(ancestors_BNM), 1, 1)
        levels = torch.full((n,), depth - 1, device=hidden_RNC.device)
        hidden = self._run(self.embed(tokens_BNK), hidden_RNC, levels, ancestors, append)
        return self._say(hidden, (self._counts[:, None] + depth).expand(-1, n))

    @torch.no_grad()
    def accept(self, tokens_BMK: Tensor, hidden_RMC: Tensor, counts_B: Tensor) -> Step:
        """Take in decided tokens, each with the hidden state it was drawn from, and forget the drafts.

        The first `counts_B` of a row's M count. Returns logits (B, 1, K, V) after the last of them, and the
        estimates (R, 1, C); a row of no tokens gets those of its first.
        """
        rows, m = hidden_RMC.shape[:2]
        steps = torch.arange(m, device=hidden_RMC.device)
        hidden = self._run(self.embed(tokens_BMK), hidden_RMC, steps)
        counts = counts_B.repeat(rows // len(counts_B))
        self._cache.keep(counts)
        self._counts = self._counts + counts_B
        last = (counts - 1).clamp(min=0)[:, None, None].expand(-1, 1, hidden.shape[2])
        return self._say(hidden.gather(1, last), self._counts[:, None])

    def _say(self, hidden: Tensor, positions_BN: Tensor) -> Step:
        """The target's logits of estimates; beyond the image's end they are of the last token."""
        return Step(self.head(hidden, positions_BN.clamp(max=self._length - 1)), hidden)

    def _run(
        self,
        embeddings: Tensor,
        hidden: Tensor,
        steps: Tensor,
        ancestors: Tensor | None = None,
        append: bool = False,
    ) -> Tensor:
        """The drafter at `steps` (N,) behind what is in the cache."""
        self.passes += 1
        mask = self._cache.begin(hidden.shape[1], ancestors, append=append)
        positions = self._cache.lengths[:, None] + steps
        if self._offsets is not None:
            positions = (positions - self._offsets[:, None]).clamp(min=0)
        return self.model(embeddings.to(hidden.dtype), hidden, positions, mask=mask, cache=self._cache)


def visible_mask(padding_RP: Tensor, length: int) -> Tensor:
    """Bool (R, N, N) of N = `length` inputs: each sees those before it that are no padding, and itself.

    Args:
        padding_RP: (R, P) bool of the first inputs, True = others do not see it.
    """
    hidden = F.pad(padding_RP, (0, length - padding_RP.shape[1]))[:, None]
    causal = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
    return (causal & ~hidden) | torch.eye(length, dtype=torch.bool, device=hidden.device)
