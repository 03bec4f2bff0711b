"""Processors of logits that stand between a model and `generate`: draws by our noise, and forced answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling, token_law


class Draws(LogitsProcessor):
    """Leaves one token of each row, drawn from its law: greedy decoding then writes the draws.

    Args:
        sampling: temperature and filters.
        noise: a row per prompt, so that a draw depends on its own row alone.
    """

    def __init__(self, sampling: TokenSampling, noise: Noise) -> None:
        self.sampling, self.noise = sampling, noise

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        law_B1V = token_law(scores[:, None], self.sampling).softmax(dim=-1)
        return _only(scores, self.noise.categorical(law_B1V)[:, 0])


class Forced(LogitsProcessor):
    """Writes given tokens, and notes how likely they were.

    Args:
        targets: ids of each row's continuation; shorter ones repeat their last token, which counts no more.

    Attributes:
        sums_B: log-probability of each row's continuation, float64.
        greedy_B: whether each of its tokens was the likeliest.
    """

    def __init__(self, targets: Sequence[Sequence[int]], device: torch.device) -> None:
        self.lengths_B = torch.tensor([len(row) for row in targets], device=device)
        self.steps = int(self.lengths_B.max())
        rows = [[*row, *[row[-1]] * (self.steps - len(row))] for row in targets]
        self.targets_BT = torch.tensor(rows, device=device)
        self.sums_B = torch.zeros(len(rows), dtype=torch.float64, device=device)
        self.greedy_B = torch.ones(len(rows), dtype=torch.bool, device=device)
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        target_B = self.targets_BT[:, self.step]
        counts_B = self.step < self.lengths_B
        log_B = scores.float().log_softmax(dim=-1).gather(1, target_B[:, None])[:, 0]
        self.sums_B += torch.where(counts_B, log_B.double(), 0.0)
        self.greedy_B &= (scores.argmax(dim=-1) == target_B) | ~counts_B
        self.step += 1
        return _only(scores, target_B)


def _only(scores: Tensor, index_B: Tensor) -> Tensor:
    return torch.full_like(scores, -torch.inf).scatter(1, index_B[:, None], 0.0)
