"""One exponential vector per position decides draft and token alike: what comes out is what `Sequential`
draws.

A token is argmax(p / E) with the position's E, a draft argmax(q / E), and it is right iff it is that token. E
is drawn position by position, as `Sequential` draws it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.decoding.base import Draft, Run, Verdict
from visgen.decoding.drafts.window import WindowShape
from visgen.decoding.rules import race
from visgen.nn.noise import Noise


class PositionNoise:
    """Exponential draws (B, L, K, V), made in the order of positions when first needed; old ones are dropped.

    Position 0 is not here: the engine has drawn the first token with it.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shape = (run.session.batch_size, 1, run.session.num_codes, run.session.vocab_size)
        self._kept = torch.empty(self._shape[0], 0, *self._shape[2:], device=run.ids.device)
        self._first = 1

    def at(self, positions_BN: Tensor) -> Tensor:
        """(B, N, K, V) of positions 1 … L − 1; positions beyond the image count as its last."""
        last = self._run.ids.shape[1] - 1
        positions_BN = positions_BN.clamp(1, max(last, 1))
        while self._first + self._kept.shape[1] <= int(positions_BN.max()):
            draw = self._run.noise.exponential(*self._shape, device=self._kept.device)
            self._kept = torch.cat([self._kept, draw], 1)
        index = (positions_BN - self._first)[..., None, None].expand(-1, -1, *self._shape[2:])
        return self._kept.gather(1, index)

    def forget(self) -> None:
        """Drop what lies before the first undecided position of all rows."""
        first = min(int(self._run.counts.min()), self._first + self._kept.shape[1])
        self._kept, self._first = self._kept[:, first - self._first :], first


class SharedNoiseVerifier:
    """Keeps the path of drafts that are what the position's noise draws from the target's law."""

    lossless = True

    def __init__(self, shape: WindowShape) -> None:
        self._shape = shape
        self._ancestors = shape.ancestors.float()
        levels = torch.arange(1, shape.length + 1, device=shape.depths.device)
        self._levels = (shape.depths[:, None] == levels).float()  # (N, C)
        self.noise: PositionNoise  # from the source, when a decoding starts
        self.run: Run

    def start(self, run: Run, noise: PositionNoise) -> None:
        """Before the first pass of a decoding."""
        self.run, self.noise = run, noise

    def __call__(self, target_BNKV: Tensor, draft: Draft, noise: Noise) -> Verdict:
        self.noise.forget()
        depths = torch.cat([self._shape.depths.new_zeros(1), self._shape.depths])
        drawn_BNK = race(target_BNKV, self.noise.at(self.run.counts[:, None] + depths))
        right = (draft.tokens == drawn_BNK[:, self._shape.parents]).all(-1) & draft.valid
        kept = (~right).float() @ self._ancestors.T == 0  # (B, N): no ancestor is wrong
        accepted = kept.sum(1)
        order = (~kept).long().argsort(dim=1, stable=True)[:, : self._shape.length] + 1
        alive = torch.cat([torch.ones_like(kept[:, :1]), kept], 1)[:, self._shape.parents] & draft.valid
        tested = alive.float() @ self._levels > 0
        last = F.pad(order, (1, 0)).gather(1, accepted[:, None])  # the root where none is accepted
        index = last[..., None].expand(-1, -1, drawn_BNK.shape[2])
        return Verdict(order, accepted, drawn_BNK.gather(1, index).squeeze(1), tested)
