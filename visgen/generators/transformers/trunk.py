"""What a session asks of a language model: embeddings, the trunk, the rows of its head that mean codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.errors import InputError
from visgen.generators.transformers.cache import TrunkCache


class Trunk(ABC):
    """A family's way into its model. Session ids: codes 0 … V − 1 first, then the format tokens.

    Args:
        body: the decoder stack, called with `inputs_embeds`, a 4-D bool mask, `position_ids` and a cache.
        codebook_size: V.
        format_ids: ids in the model's own vocabulary of the format tokens V, V + 1, …

    Raises:
        InputError: another attention than SDPA, which alone takes bool masks.
    """

    def __init__(self, body: Any, codebook_size: int, format_ids: Sequence[int] = ()) -> None:
        config = body.config
        if config._attn_implementation != "sdpa":
            raise InputError(
                f"attn_implementation={config._attn_implementation!r} takes no masks of trees; "
                'load the model with attn_implementation="sdpa"'
            )
        self._body = body
        self.codebook_size, self.format_ids = codebook_size, tuple(format_ids)
        self.num_layers = config.num_hidden_layers
        self.num_kv_heads = config.num_key_value_heads
        self.head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.max_positions = config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self._body.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model, and of keys and values."""
        return self._body.dtype

    def embed_words(self, ids: Tensor) -> Tensor:
        """Embeddings (…, D) of words of the model's own vocabulary."""
        return self._body.get_input_embeddings()(ids)

    @abstractmethod
    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings (…, D) of session ids."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) over the codes."""

    def run(
        self, embeddings_RND: Tensor, mask: Tensor | None, positions_RN: Tensor, cache: TrunkCache
    ) -> Tensor:
        """Final hidden states (R, N, D); the mask is (R, 1, N, span) bool, None = everything is seen."""
        out = self._body(
            inputs_embeds=embeddings_RND,
            attention_mask=mask,
            position_ids=positions_RN,
            past_key_values=cache,
            use_cache=True,
        )
        return out.last_hidden_state


class WordTrunk(Trunk):
    """A model whose vocabulary holds words and image codes alike (Emu3, Chameleon).

    Args:
        lm_head: its whole head; only the rows of codes are computed.
        code_ids: id in the model's vocabulary of each code.
    """

    def __init__(
        self, body: Any, lm_head: torch.nn.Linear, code_ids: Sequence[int], format_ids: Sequence[int] = ()
    ) -> None:
        super().__init__(body, len(code_ids), format_ids)
        ids = torch.tensor([*code_ids, *format_ids], device=self.device)
        self._ids = ids
        first = int(ids[0])
        line = bool(
            (ids[: len(code_ids)] == torch.arange(first, first + len(code_ids), device=self.device)).all()
        )
        rows = slice(first, first + len(code_ids)) if line else ids[: len(code_ids)]
        self._weight = lm_head.weight[rows]  # a view where codes stand in line, as official ones do
        self._bias = None if lm_head.bias is None else lm_head.bias[rows]

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return self.embed_words(self._ids[ids])

    def head(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self._weight, self._bias)
