"""What reading a prompt costs a decoder, in multiply-adds: by the papers' formula, and as it is computed.

The papers' formula is that of DivPrune and FastV: 4 n d² + 2 n² d + 2 n d m for n tokens in a layer of width
d with a feed-forward of width m, as if keys had all heads and the feed-forward two matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder: hidden width, feed-forward width, layers, heads, key heads, width of a head."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Any) -> DecoderShape:
        """The sizes in a transformers configuration of a text model."""
        heads = config.num_attention_heads
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
        )

    def cache_entry(self, itemsize: int) -> int:
        """Bytes of the key and the value of one token in one layer, of numbers of `itemsize` bytes."""
        return 2 * self.num_key_heads * self.head_dim * itemsize

    def paper_layer(self, tokens: int) -> int:
        """Multiply-adds of one layer by the papers' formula."""
        d, m = self.hidden_size, self.intermediate_size
        return 4 * tokens * d * d + 2 * tokens * tokens * d + 2 * tokens * d * m

    def layer(self, tokens: int) -> int:
        """Multiply-adds of one layer's matrix products: grouped keys, gated feed-forward, all n² scores."""
        queries, keys = self.num_heads * self.head_dim, self.num_key_heads * self.head_dim
        projections = 2 * tokens * self.hidden_size * (queries + keys)
        scores = 2 * tokens * tokens * queries
        return projections + scores + 3 * tokens * self.hidden_size * self.intermediate_size


def ratio(tokens: Sequence[int], full: int, layer: Callable[[int], int]) -> float:
    """Cost of layers with `tokens` each against that of as many layers with `full`."""
    return sum(layer(count) for count in tokens) / (len(tokens) * layer(full))


def prompt_flops(shape: DecoderShape, text: int, image: int, kept: int | None = None, after: int = 0) -> int:
    """Multiply-adds of a whole prompt by the papers' formula.

    Args:
        shape: of the decoder.
        text, image: tokens.
        kept: image tokens left; None = all.
        after: layers that see all of them, K.
    """
    late = text + (image if kept is None else kept)
    early = after * shape.paper_layer(text + image)
    return early + (shape.num_layers - after) * shape.paper_layer(late)
