"""One token per pass: the baseline that every other strategy is measured against."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.decoding.base import DecodingStats, DecodingStrategy, Law, Resources, Session
from visgen.nn.noise import Noise


@dataclass(frozen=True)
class Sequential(DecodingStrategy):
    """Draw one token, feed it, draw the next: L passes for L tokens, the prefill included.

    Draws one exponential (B, 1, K, V) per position, in order, and nothing else.
    """

    lossless = True

    @property
    def entries(self) -> int:
        return 1

    def __call__(
        self, session: Session, law: Law, noise: Noise, resources: Resources | None = None
    ) -> tuple[Tensor, DecodingStats]:
        begun = time.perf_counter()
        b, length, device = session.batch_size, session.length, session.device
        ids = torch.zeros(b, length, session.num_codes, dtype=torch.long, device=device)
        root, one = torch.zeros(b, 1, dtype=torch.long, device=device), torch.ones_like(session.committed)
        step = session.prefill()
        for position in range(length):
            at = torch.full((b, 1), position, dtype=torch.long, device=device)
            ids[:, position : position + 1] = noise.categorical(law(step.logits, at))
            if position + 1 < length:
                step = session.extend(ids[:, position : position + 1])
                session.commit(root, one)
        # Reading the last id waits for the device, so that the seconds are those of the work.
        int(ids[-1, -1, -1])
        seconds = time.perf_counter() - begun
        return ids, DecodingStats(passes=(length,) * b, tokens=length, lossless=True, seconds=seconds)
