"""A session of RAR in raster order: each pass embeds the new tokens alone, with one row of every table per
token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visgen.decoding.base import Session, Step
from visgen.decoding.trees import tree_structure
from visgen.generators.conditions import Condition
from visgen.nn.guidance import guide
from visgen.nn.packed import packed
from visgen.nn.sampling import TokenSampling, guidance_table
from visgen.nn.slot_cache import SlotCache

PREFIX = 2  # start token, class


class RARSession(Session):
    """See `Session`. Rows are doubled, conditional first, when guidance is on anywhere.

    Args:
        model: the `RARGenerator` that asks; its module imports this one, not the other way round.
        condition: of B images.
        sampling: for guidance; filters are the law's business.
        entries: the largest number of tokens fed at once.
    """

    def __init__(self, model: Any, condition: Condition, sampling: TokenSampling, entries: int) -> None:
        self.model, self.device = model, model.device
        self.batch_size, self.length = len(condition), model.layout.length
        self.num_codes, self.vocab_size = 1, model.config.codebook_size
        self.committed = torch.zeros(self.batch_size, dtype=torch.long, device=self.device)
        self.passes = 0
        self.scales = guidance_table(sampling, self.length).to(self.device)
        self.guided = bool((self.scales != 1).any())
        halves = [condition, condition.unconditional()] if self.guided else [condition]
        self._classes = torch.cat([model.class_vectors(half) for half in halves])  # (R, C)
        self.rows = len(self._classes)
        self.cache = self._new_cache(entries)
        self._blocks, self._head = packed(model.blocks), packed(model.head)

    def _new_cache(self, entries: int) -> SlotCache:
        config = self.model.config
        return SlotCache(
            config.depth,
            self.rows,
            config.num_heads,
            PREFIX + self.length + entries,
            config.hidden_size // config.num_heads,
            dtype=self.model.dtype,
            device=self.device,
        )

    def prefill(self) -> Step:
        model, start = self.model, torch.zeros(self.rows, 1, dtype=torch.long, device=self.device)
        inputs = torch.stack([model.cls_token.view(-1).expand(self.rows, -1), self._classes], dim=1)
        x = inputs + model.place[:PREFIX]
        x[:, 1:] += model.next_places(start)
        mask = self.cache.begin(PREFIX)
        features = self._run(x, model.step[:PREFIX].expand(self.rows, -1, -1), mask)
        self.cache.keep(torch.full((self.rows,), PREFIX, device=self.device))
        return Step(self._logits(features[:, -1:], self.committed[:, None]), features)

    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        n = tokens_BNK.shape[1]
        depths, ancestors = torch.arange(n, device=self.device)[None], None
        if parents_BN is not None:
            depths, ancestors = tree_structure(parents_BN)
        places = self.committed[:, None] + depths  # (B, N), of the fed tokens
        slots = (PREFIX + places).clamp_max(PREFIX + self.length - 1)
        model = self.model
        x = model.embeddings(tokens_BNK.squeeze(-1)) + model.place[slots] + model.next_places(places + 1)
        mask = self.cache.begin(n, None if ancestors is None else self._per_row(ancestors))
        features = self._run(self._per_row(x), self._per_row(model.step[slots]), mask)
        return Step(self._logits(features, places + 1), features)

    def commit(self, index_BM: Tensor, counts_B: Tensor) -> None:
        self.cache.keep(self._per_row(counts_B), self._per_row(index_BM))
        self.committed = self.committed + counts_B.to(self.committed)

    @property
    def hidden_size(self) -> int:
        """C, width of the head's input; this and what follows is what a drafter asks for."""
        return self.model.config.hidden_size

    @property
    def padding(self) -> None:
        """No condition position is hidden."""
        return None

    def embed(self, tokens_BNK: Tensor) -> Tensor:
        """Vectors (R, N, C) of ids, without their places, for conditional and unconditional rows."""
        return self._per_row(self.model.embeddings(tokens_BNK.squeeze(-1)))

    def head(self, hidden_RNC: Tensor, positions_BN: Tensor) -> Tensor:
        """Guided logits (B, N, 1, V) of the head's inputs that predict the tokens at `positions_BN`."""
        return self._logits(hidden_RNC, positions_BN)

    def _run(self, x_RNC: Tensor, step_RNC: Tensor, mask: Tensor | None) -> Tensor:
        """Input of the head, (R, N, C)."""
        steps = self._classes[:, None] + step_RNC
        for layer, block in enumerate(self._blocks):
            x_RNC = block(x_RNC, steps, mask=mask, cache=self.cache, layer=layer)
        self.passes += 1
        return self._head.features(x_RNC, steps)

    def _per_row(self, tensor: Tensor) -> Tensor:
        """The same for the unconditional rows."""
        return torch.cat([tensor, tensor]) if self.guided else tensor

    def _logits(self, features_RNC: Tensor, places_BN: Tensor) -> Tensor:
        """Guided before the head, which is linear: the same logits at half its cost."""
        if self.guided:
            conditional, unconditional = features_RNC.float().chunk(2)
            scales = self.scales[places_BN.clamp_max(self.length - 1)][..., None]
            features_RNC = guide(conditional, unconditional, scales).to(features_RNC.dtype)
        return self._head(features_RNC)[:, :, None]
