"""What a codebook needs beside gradients: its codes counted, and those that died restarted from the data."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from visgen.nn.quantizers.codebook import average_counts, perplexity, restart_dead_codes, usage

KEPT_VECTORS = 4096  # vectors kept for restarts: of several batches where a batch holds fewer


class RestartOptions(Protocol):
    """The options of a recipe that `CodebookCare` reads.

    Attributes:
        continuous_steps: first steps without quantising; after them all codes are placed on kept vectors.
        restart_every: steps between restarts of dead codes, 0 = never.
        restart_until: fraction of the run after which no code restarts.
        restart_margin: a code used less than this times uniform is dead.
    """

    @property
    def continuous_steps(self) -> int: ...

    @property
    def restart_every(self) -> int: ...

    @property
    def restart_until(self) -> float: ...

    @property
    def restart_margin(self) -> float: ...


class CodebookCare(nn.Module):
    """Counts and vectors of one codebook; a part of the objective, so that a resumed run goes on alike.

    Args:
        codebook: (V, C), for its sizes.
        options: see `RestartOptions`.
        steps: length of the run.
        decay: of the counts, per step: at 0.99 an unused code is dead (3 % of uniform) after 350 steps, at
            0.95 after 70, which takes some tens of thousands of ids a step to be no chance.
    """

    counts: Tensor
    vectors: Tensor
    kept: Tensor

    def __init__(self, codebook: Tensor, options: RestartOptions, steps: int, decay: float = 0.99) -> None:
        super().__init__()
        size, channels = codebook.shape
        self.options, self.steps, self.decay = options, steps, decay
        self.register_buffer("counts", torch.ones(size))  # moving average, uniform is 1
        self.register_buffer("vectors", torch.zeros(KEPT_VECTORS, channels))  # the last ones that were seen
        self.register_buffer("kept", torch.zeros((), dtype=torch.long))  # how many of them are real

    @torch.no_grad()
    def observe(self, vectors: Tensor, ids: Tensor | None = None) -> None:
        """Keep some of a step's vectors (…, C), and count their codes where they were quantised."""
        new = vectors.detach().flatten(0, -2)[-KEPT_VECTORS:].float()
        self.vectors.copy_(torch.cat([self.vectors[len(new) :], new]))
        self.kept.add_(len(new)).clamp_(max=KEPT_VECTORS)
        if ids is not None:
            average_counts(self.counts, ids, self.decay)

    @torch.no_grad()
    def after_step(self, codebook: Tensor, step: int, *, frozen: bool = False) -> dict[str, float | Tensor]:
        """Place or restart codes, in place, where it is time; values for the log.

        Args:
            codebook: (V, C).
            step: the one that is over.
            frozen: only report.
        """
        options = self.options
        values: dict[str, float | Tensor] = {
            "codebook_usage": usage(self.counts, options.restart_margin),
            "codebook_perplexity": perplexity(self.counts),
        }
        done = step + 1 - options.continuous_steps
        due = options.restart_every and done >= 0 and done % options.restart_every == 0
        if frozen or not due or step >= options.restart_until * self.steps or not self.kept:
            return values
        draws = torch.Generator().manual_seed(step)
        vectors = self.vectors[-int(self.kept) :]
        if done == 0:
            values["codes_restarted"] = float(self._place(codebook, vectors, draws))
        else:
            found = restart_dead_codes(codebook, self.counts, vectors, draws, options.restart_margin)
            values["codes_restarted"] = float(found)
        return values

    def _place(self, codebook: Tensor, vectors: Tensor, draws: torch.Generator) -> int:
        """All codes on vectors, different ones where there are as many."""
        size, count = len(codebook), len(vectors)
        rows = torch.randperm(count, generator=draws).repeat(-(-size // count))[:size]
        codebook.copy_(vectors[rows.to(vectors.device)].to(codebook.dtype))
        self.counts.fill_(1.0)
        return size
