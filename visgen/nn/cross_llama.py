"""Llama block that also reads a text by cross-attention: text keys are made once and serve all positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from visgen.nn.attention import attend
from visgen.nn.llama import LlamaBlock, RMSNorm
from visgen.nn.rope import Rotation
from visgen.nn.slot_cache import SlotCache


@dataclass(frozen=True, eq=False)
class TextKeys:
    """Keys and values (R, H, T, D) of a text for one layer, and bool (R, 1, 1, T), True = a word; None = all
    are."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


class CrossAttention(nn.Module):
    """Attention of positions (R, N, C) to the states (R, T, C) of a text; no biases, no positions."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(hidden_size, hidden_size, bias=False)
        self.kv = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def read(self, states_RTC: Tensor, mask: Tensor | None = None) -> TextKeys:
        """Keys and values of a text; `mask` as in `TextKeys`."""
        keys, values = (self._heads(x) for x in self.kv(states_RTC).chunk(2, dim=-1))
        return TextKeys(keys, values, mask)

    def forward(self, x_RNC: Tensor, text: TextKeys) -> Tensor:
        out = attend(self._heads(self.q(x_RNC)), text.keys, text.values, mask=text.mask)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x_RNC: Tensor) -> Tensor:
        return x_RNC.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class CrossLlamaBlock(LlamaBlock):
    """x + attention(norm(x)), x + cross-attention(norm(x)), x + SwiGLU(norm(x)): 16 · C² weights instead of
    12.

    Arguments as for `LlamaBlock`.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, num_kv_heads: int, mlp_size: int, **options: Any
    ) -> None:
        super().__init__(hidden_size, num_heads, num_kv_heads, mlp_size, **options)
        self.norm_text = RMSNorm(hidden_size, options.get("norm_eps", 1e-5))
        self.cross = CrossAttention(hidden_size, num_heads)

    def forward(
        self,
        x_BLC: Tensor,
        rotation: Rotation,
        *,
        mask: Tensor | None = None,
        cache: SlotCache | None = None,
        layer: int = 0,
        text: TextKeys | None = None,
    ) -> Tensor:
        assert text is not None  # the model gives it to all its blocks
        x = x_BLC + self._drop(self.attn(self.norm1(x_BLC), rotation, mask=mask, cache=cache, layer=layer))
        x = x + self._drop(self.cross(self.norm_text(x), text))
        return x + self._drop(self.ffn(self.norm2(x)))
