"""A session of a raster model: cache, conditional and unconditional rows, guided logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visgen.decoding.base import Session, Step
from visgen.decoding.trees import tree_structure
from visgen.generators.conditions import Condition
from visgen.generators.prefix import Prefix
from visgen.nn.guidance import guide
from visgen.nn.packed import packed
from visgen.nn.rope import Rotation
from visgen.nn.sampling import TokenSampling, guidance_table
from visgen.nn.slot_cache import SlotCache


class RasterSession(Session):
    """See `Session`. Rows are doubled, conditional first, when guidance is on anywhere.

    Args:
        model: the `RasterTransformer` that asks; its module imports this one, not the other way round.
        condition: of B images.
        sampling: for guidance; filters are the law's business.
        entries: the largest number of tokens fed at once.
        length: positions to draw; None = all of the model. Guidance follows its schedule over all of them
            either way, so that a shorter sequence is the beginning of a longer one.
    """

    def __init__(
        self,
        model: Any,
        condition: Condition,
        sampling: TokenSampling,
        entries: int,
        length: int | None = None,
    ) -> None:
        self.model, self.device = model, model.device
        self.batch_size = len(condition)
        whole = model.positions[0] * model.positions[1]
        self.length = whole if length is None else length
        self.num_codes, self.vocab_size = model.num_codes, model.config.codebook_size
        self.committed = torch.zeros(self.batch_size, dtype=torch.long, device=self.device)
        self.passes = 0
        self.scales = guidance_table(sampling, whole)[: self.length].to(self.device)
        self.guided = bool((self.scales != 1).any())
        halves = [condition, condition.unconditional()] if self.guided else [condition]
        prefix = Prefix.cat([model.prefix(half.to(self.device)) for half in halves])
        self._prefix, self._visible = prefix.embeddings, prefix.visible
        self._text = model.text_keys(prefix)
        self.rows = len(self._prefix)
        # Made once: asking a diffusers model for its device walks all its modules, 0.7 ms for 7 blocks.
        self._rotation = model.rotation(0, self._prefix.shape[1] + self.length)
        self.cache = self._new_cache(entries)
        self._blocks, self._tokens = packed(model.blocks), packed(model.tokens)

    def _new_cache(self, entries: int) -> SlotCache:
        config = self.model.config
        return SlotCache(
            config.depth,
            self.rows,
            config.num_kv_heads or config.num_heads,
            self._prefix.shape[1] + self.length + entries,
            config.hidden_size // config.num_heads,
            dtype=self.model.dtype,
            device=self.device,
            hidden=None if self._visible is None else ~self._visible,
        )

    def prefill(self) -> Step:
        length = self._prefix.shape[1]
        seen = self.model.prefix_mask(Prefix(self._prefix, self._visible))
        mask = self.cache.begin(length, seen)
        rotation = self._rotation[0][:length], self._rotation[1][:length]
        x = self._run_blocks(self._prefix, rotation, mask)
        self.cache.keep(torch.full((self.rows,), length, device=self.device))
        self.passes += 1
        features = self._tokens.features(x)
        logits = self._logits(features[:, -1:], self.committed[:, None])
        return Step(logits, self._hidden(features))

    def extend(self, tokens_BNK: Tensor, parents_BN: Tensor | None = None) -> Step:
        n = tokens_BNK.shape[1]
        depths, ancestors = torch.arange(n, device=self.device)[None], None
        if parents_BN is not None:
            depths, ancestors = tree_structure(parents_BN)
        positions = self.committed[:, None] + depths  # (B, N), of the fed tokens
        rotation = self._rotation_at(self._per_row(self._prefix.shape[1] + positions))
        mask = self.cache.begin(n, None if ancestors is None else self._per_row(ancestors))
        x = self._per_row(self._tokens.embed(tokens_BNK))
        x = self._run_blocks(x, rotation, mask)
        self.passes += 1
        features = self._tokens.features(x)
        return Step(self._logits(features, positions + 1), self._hidden(features))

    def commit(self, index_BM: Tensor, counts_B: Tensor) -> None:
        self.cache.keep(self._per_row(counts_B), self._per_row(index_BM))
        self.committed = self.committed + counts_B.to(self.committed)

    @property
    def hidden_size(self) -> int:
        """C, width of the final hidden states; this and what follows is what a drafter asks for."""
        return self.model.config.hidden_size

    @property
    def padding(self) -> Tensor | None:
        """(R, P) bool, True = condition positions that others do not see; or None."""
        return None if self._visible is None else ~self._visible

    def embed(self, tokens_BNK: Tensor) -> Tensor:
        """Input vectors (R, N, C) of ids, for conditional and unconditional rows."""
        return self._per_row(self._tokens.embed(tokens_BNK))

    def head(self, hidden_RNC: Tensor, positions_BN: Tensor) -> Tensor:
        """Guided logits (B, N, K, V) of final hidden states that predict the tokens at `positions_BN`."""
        return self._logits(hidden_RNC[:, :, None], positions_BN)

    def _run_blocks(self, x_RNC: Tensor, rotation: Rotation, mask: Tensor | None) -> Tensor:
        for layer, (block, text) in enumerate(zip(self._blocks, self._text, strict=True)):
            x_RNC = block(x_RNC, rotation, mask=mask, cache=self.cache, layer=layer, **text)
        return x_RNC

    def _rotation_at(self, positions_RN: Tensor) -> Rotation:
        """Tables (R, N, D / 2) of sequence positions, those beyond the end as the last."""
        cos, sin = self._rotation
        index = positions_RN.clamp_max(len(cos) - 1)
        return cos[index], sin[index]

    def _per_row(self, tensor: Tensor) -> Tensor:
        """The same for the unconditional rows."""
        return torch.cat([tensor, tensor]) if self.guided else tensor

    def _logits(self, features_RNKC: Tensor, positions_BN: Tensor) -> Tensor:
        """Guided before the head, which is linear: the same logits at half its cost."""
        if self.guided:
            conditional, unconditional = features_RNKC.float().chunk(2)
            scales = self.scales[positions_BN.clamp_max(self.length - 1)][:, :, None, None]
            features_RNKC = guide(conditional, unconditional, scales).to(features_RNKC.dtype)
        return self._tokens.logits(features_RNKC)

    def _hidden(self, features_RNKC: Tensor) -> Tensor | None:
        """Input of the head, for drafters; windows have one per id and give none."""
        return features_RNKC.squeeze(2) if features_RNKC.shape[2] == 1 else None
