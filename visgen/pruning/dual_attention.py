"""MustDrop's second and third stage (arXiv 2411.10803).

Image tokens that neither the text as a whole nor any of its tokens attends to are dropped, and the caches of
earlier layers cut to what was left in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from visgen.errors import InputError


def dual_attention_filter(
    attention_TN: Tensor, global_threshold: float, individual_threshold: float
) -> Tensor:
    """(K,) int64 ascending: image tokens that are no drop candidates; K may be 0.

    A token is one where its attention from all text tokens is below `global_threshold` of the sum over
    image tokens, and its attention from each text token is below `individual_threshold`, both strictly.

    Args:
        attention_TN: probabilities, mean over heads: text rows × image tokens.
    """
    total_N = attention_TN.sum(dim=0)
    drop_N = total_N < total_N.sum() * global_threshold
    drop_N &= attention_TN.amax(dim=0) < individual_threshold
    return (~drop_N).nonzero()[:, 0]


def most_attended(attention_TN: Tensor, k: int) -> Tensor:
    """(k,) int64 ascending: the tokens with the largest attention from all text, for a fixed budget."""
    return attention_TN.sum(dim=0).topk(k).indices.sort().values


def with_keys(kept_K: Tensor, keys_J: Tensor) -> Tensor:
    """Both sets of indices, each index once, ascending."""
    return torch.cat([kept_K, keys_J]).unique()


def renumber(keys_J: Tensor, kept_K: Tensor) -> Tensor:
    """Places (J,) of keys within an ascending list that holds them all."""
    return torch.searchsorted(kept_K, keys_J)


def compose_stages(stages: Sequence[Tensor]) -> list[Tensor]:
    """The final survivors in the numbering of each stage's input, in the order of the stages.

    With stages F1 … F4: [F1[F2[F3[F4]]], F2[F3[F4]], F3[F4], F4].

    Args:
        stages: what each stage kept, as indices into what the one before had left.
    """
    composed = list(stages[-1:])
    for stage in reversed(stages[:-1]):
        composed.insert(0, stage[composed[0]])
    return composed


def average_tokens(counts: Sequence[int], layers: Sequence[int], num_layers: int) -> float:
    """Mean number of image tokens over the decoder layers, the papers' "equal token number".

    A layer after which tokens are dropped counts what it left.

    Args:
        counts: tokens that entered the model, then those left by each stage.
        layers: the layer after which each stage dropped, ascending.

    Raises:
        InputError: counts that do not fit the layers.
    """
    if len(counts) != len(layers) + 1:
        raise InputError(
            f"{len(counts)} counts do not fit {len(layers)} layers; give one more count than layers"
        )
    spans = [last - first for first, last in pairwise([0, *layers, num_layers])]
    return sum(count * span for count, span in zip(counts, spans)) / num_layers
