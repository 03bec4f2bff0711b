"""The papers' algorithms written straight down, as released code writes them: what ours are held against.

They make the whole attention map where a few rows are looked at, and all distances again and again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

from visgen.evaluation.benchmark.prune_cases import LayerCase
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.views import ImageView

LIMIT = 2 * 2**30  # bytes of the largest tensor that is still made; a softmax holds it twice


def divprune(pruner: VisionTokenPruner, view: ImageView) -> Tensor:
    """All N × N distances; at each step the least distance to all chosen tokens, anew: O(k² N)."""
    rows = view.features_ND.float()
    rows = rows / rows.norm(dim=-1, keepdim=True)
    distance_NN = 1 - rows @ rows.T
    chosen = [int(distance_NN.topk(2, dim=0, largest=False).values[1].argmax())]
    for _ in range(pruner.budget(len(view)) - 1):
        chosen.append(int(distance_NN[chosen].min(dim=0).values.argmax()))
    return torch.tensor(chosen)


def cls_attention(pruner: VisionTokenPruner, view: ImageView) -> Tensor:
    """The whole map of every tile in the tower's last layer, of which one row is used."""
    tower = view.tower
    assert tower is not None
    split = (*tower.keys_TLC.shape[:2], tower.num_heads, -1)
    q, k = (x.view(split).transpose(1, 2).float() for x in (tower.queries_TLC, tower.keys_TLC))
    maps_THLL = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
    scores_N = maps_THLL.mean(dim=1)[:, 0, 1:].flatten()
    return scores_N.topk(pruner.budget(len(view))).indices


def whole_map(case: LayerCase) -> Tensor:
    """(H, L, L) probabilities of a decoder layer, as its eager attention makes them."""
    attention, length = case.attention, len(case.hidden_LD)
    q = attention.q_proj(case.hidden_LD).view(1, length, -1, attention.head_dim).transpose(1, 2)  # type: ignore[operator]
    q, _ = apply_rotary_pos_emb(q, q, *(x[None] for x in case.rotary))
    causal = torch.full((length, length), torch.finfo(q.dtype).min, device=q.device).triu(1)
    keys = case.keys_HLD[None]
    _, maps = eager_attention_forward(attention, q, keys, keys, causal[None, None], attention.scaling)  # type: ignore[arg-type]
    return maps[0]


def map_bytes(entries: int, heads: int = 1, maps: int = 1) -> int:
    """Of float32 maps over `entries`, one per head."""
    return 4 * maps * heads * entries * entries


def cls_bytes(view: ImageView) -> int:
    """Of the tower's maps."""
    assert view.tower is not None
    tiles, entries, _ = view.tower.keys_TLC.shape
    return map_bytes(entries, view.tower.num_heads, tiles)


# Pruner → its selection before the language model, and the bytes of its largest tensor; those inside it all
# have `whole_map`.
Choice = Callable[[VisionTokenPruner, ImageView], Tensor]
BEFORE: dict[str, tuple[Choice, Callable[[ImageView], int]]] = {
    "divprune": (divprune, lambda view: map_bytes(len(view))),
    "cls": (cls_attention, cls_bytes),
}
