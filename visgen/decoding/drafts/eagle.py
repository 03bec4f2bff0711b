"""Drafts of a drafter model (EAGLE): a tree that follows its probabilities, a fixed tree drawn without
replacement, or a chain.

All three keep a `DrafterSession` in step with the decoding: after each pass it takes in the decided tokens
with the target's hidden states they were drawn from.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from visgen.decoding.base import Draft, DraftSource, Run, Step, Verdict
from visgen.decoding.drafts.static_tree import StaticTree
from visgen.decoding.trees import subtree
from visgen.errors import InputError


class DrafterSession(Protocol):
    """What drafts come from; `visgen.generators.drafter_session` has the documentation."""

    passes: int

    def start(self, hidden_RPC: Tensor, root_BK: Tensor) -> Step: ...

    def extend(
        self, tokens_BNK: Tensor, hidden_RNC: Tensor, depth: int, ancestors_BNM: Tensor, *, append: bool
    ) -> Step: ...

    def accept(self, tokens_BMK: Tensor, hidden_RMC: Tensor, counts_B: Tensor) -> Step: ...


class EagleSource(DraftSource):
    """What the three shapes share: the drafter's state, and its law after the sampling law.

    Args:
        drafter: of this decoding.
        depth: drafts on the longest path.
    """

    def __init__(self, drafter: DrafterSession, depth: int) -> None:
        self.drafter, self.depth = drafter, depth
        self._last: Step
        self._counts: Tensor

    def start(self, run: Run, step: Step, target_B1KV: Tensor) -> None:
        self.resume(run, self.drafter.start(_hidden(step), run.root))

    def resume(self, run: Run, last: Step) -> None:
        """Draft from `last`, what the drafter says after all tokens of `run`."""
        self._last, self._counts, self.draft_passes = last, run.counts, self.drafter.passes

    def update(self, run: Run, draft: Draft, step: Step, target_BNKV: Tensor, verdict: Verdict) -> None:
        width = min(verdict.path.shape[1], self.depth)
        path = verdict.path[:, :width].clamp(0, draft.tokens.shape[1])
        entries = torch.cat(
            [torch.zeros_like(path[:, :1]), path], dim=1
        )  # (B, M): whence each token was drawn
        steps = torch.arange(width + 1, device=path.device)
        places = (self._counts[:, None] + steps).clamp(max=run.ids.shape[1] - 1)
        tokens = run.ids.gather(1, places[..., None].expand(-1, -1, run.ids.shape[2]))
        hidden = take(_hidden(step), entries)
        self.resume(run, self.drafter.accept(tokens, hidden, run.counts - self._counts))

    def _law(self, run: Run, logits_BNKV: Tensor, depth: int) -> Tensor:
        """Law (B, N, K, V) of drafts at a depth (1 = children of the root)."""
        b, n = logits_BNKV.shape[:2]
        positions = (run.counts + depth - 1).clamp(max=run.ids.shape[1] - 1)
        return run.law(logits_BNKV, positions[:, None].expand(b, n))


class ChainSource(EagleSource):
    """`depth` drafts in one line, each drawn from the drafter's law, sub-code by sub-code."""

    def propose(self, run: Run) -> Draft:
        tokens, laws, step = [], [], self._last
        for depth in range(1, self.depth + 1):
            laws.append(self._law(run, step.logits, depth))
            tokens.append(run.noise.categorical(laws[-1]))
            if depth < self.depth:
                before = torch.ones(len(run.ids), 1, depth, dtype=torch.bool, device=run.ids.device)
                step = self.drafter.extend(tokens[-1], _hidden(step), depth, before, append=depth > 1)
        return Draft.chain(torch.cat(tokens, dim=1), torch.cat(laws, dim=1))


class DynamicTreeSource(EagleSource):
    """The `count` most probable drafts of a beam (EAGLE-2, arXiv 2406.16858); nothing is drawn.

    A beam of `top_k` drafts grows by `top_k` children each, `depth` levels deep; a draft's score is the log
    probability of its path; of all that was looked at, the best `count` are proposed.
    """

    def __init__(self, drafter: DrafterSession, depth: int, top_k: int, count: int) -> None:
        super().__init__(drafter, depth)
        self.top_k, self.count = top_k, count

    def propose(self, run: Run) -> Draft:
        tokens, scores, parents = self._grow(run)
        count = min(self.count, tokens.shape[1])
        index = descending(scores, count).sort(dim=1).values  # in the order of the pool: parents come first
        entries = subtree(parents, index + 1)
        valid = scores.gather(1, index) > -torch.inf
        return Draft(tokens.gather(1, index)[..., None], entries, None, valid)

    def _grow(self, run: Run) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, scores and parents (0 = the root, i = the i-th) of all drafts looked at, (B, P) each.

        Among equal scores the first wins: a draft stands before its child, which is never better, so that no
        child is chosen without it.
        """
        tokens, scores = self._children(run, self._last, 1)  # (B, 1, k)
        beam, beam_scores = tokens.flatten(1), scores.flatten(1)  # (B, k)
        pool = [(beam, beam_scores, torch.zeros_like(beam))]
        entry = torch.arange(1, beam.shape[1] + 1, device=beam.device).expand_as(
            beam
        )  # of the beam in the pool
        hidden = take(_hidden(self._last), torch.zeros_like(beam))
        eye = torch.eye(beam.shape[1], dtype=torch.bool, device=beam.device).expand(len(beam), -1, -1)
        ancestors = eye
        for depth in range(2, self.depth + 1):
            step = self.drafter.extend(beam[..., None], hidden, depth - 1, ancestors, append=depth > 2)
            tokens, scores = self._children(run, step, depth)  # (B, k, k)
            total = (beam_scores[..., None] + scores).flatten(1)
            start = 1 + sum(part[0].shape[1] for part in pool)
            width = tokens.shape[2]
            pool.append((tokens.flatten(1), total, entry.repeat_interleave(width, dim=1)))
            best = descending(total, beam.shape[1])
            beam, beam_scores, entry = tokens.flatten(1).gather(1, best), total.gather(1, best), start + best
            above = best // width
            hidden = take(_hidden(step), above)
            rows = above[..., None].expand(-1, -1, ancestors.shape[2])
            ancestors = torch.cat([ancestors.gather(1, rows), eye], dim=2)
        joined = [torch.cat(parts, dim=1) for parts in zip(*pool, strict=True)]
        return joined[0], joined[1], joined[2]

    def _children(self, run: Run, step: Step, depth: int) -> tuple[Tensor, Tensor]:
        """The most probable ids below each of N drafts and their log probabilities, each (B, N, k)."""
        law = _single(self._law(run, step.logits, depth))
        probabilities, ids = law.topk(min(self.top_k, law.shape[-1]), dim=-1)
        return ids, probabilities.log().clamp(max=0.0)


class StaticTreeSource(EagleSource):
    """A fixed tree; children of a node are drawn without replacement (EAGLE-1; LANTERN++, arXiv 2502.06352).

    Args:
        tree: which children are drafted.
        samples: drawn below each inner node, in the order of their tests; a child of rank r is the r-th.
    """

    def __init__(self, drafter: DrafterSession, tree: StaticTree, samples: int | None = None) -> None:
        super().__init__(drafter, len(tree.levels))
        self.tree, self.samples = tree, tree.width if samples is None else samples

    def propose(self, run: Run) -> Draft:
        drawn, laws = self.draw(run)
        tokens, of_node = [], []
        for level, ids, law in zip(self.tree.levels, drawn, laws, strict=True):
            rows = torch.tensor(level.rows, device=ids.device)
            tokens.append(ids[:, rows, torch.tensor(level.ranks, device=ids.device)])
            of_node.append(law[:, rows])
        tokens_BN, laws_BNV = torch.cat(tokens, dim=1), torch.cat(of_node, dim=1)
        parents = torch.tensor(self.tree.parents, device=tokens_BN.device).expand_as(tokens_BN)
        valid = laws_BNV.gather(2, tokens_BN[..., None]).squeeze(2) > 0
        return Draft(tokens_BN[..., None], parents, laws_BNV[:, :, None], valid)

    def draw(self, run: Run) -> tuple[list[Tensor], list[Tensor]]:
        """Level by level: `samples` ids (B, P, S) below each of P inner nodes, and their laws (B, P, V)."""
        drawn: list[Tensor] = []
        laws: list[Tensor] = []
        step, ancestors = self._last, None
        for depth, level in enumerate(self.tree.levels, start=1):
            if depth > 1:
                above = torch.tensor(
                    level.above, device=run.ids.device
                )  # among the inner nodes a level higher
                rank = torch.tensor(level.above_ranks, device=run.ids.device)
                tokens = drawn[-1][:, above, rank]
                ancestors = _below(ancestors, above, tokens)
                hidden = _hidden(step)[:, above]
                step = self.drafter.extend(tokens[..., None], hidden, depth - 1, ancestors, append=depth > 2)
            laws.append(_single(self._law(run, step.logits, depth)))
            draws = run.noise.exponential(*laws[-1].shape, device=laws[-1].device)
            drawn.append(without_replacement(laws[-1], draws, min(self.samples, laws[-1].shape[-1])))
        return drawn, laws


def descending(scores_BP: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest scores (B, P), largest first; equal ones in their order."""
    return scores_BP.sort(dim=1, descending=True, stable=True).indices[:, :count]


def without_replacement(law: Tensor, draws: Tensor, count: int) -> Tensor:
    """`count` ids (…, count) drawn one after another without replacement from laws (…, V), with Exp(1) draws.

    The largest of p / E in falling order have that law.
    """
    return (law.float() / draws).topk(count, dim=-1).indices


def conditional(law: Tensor, drawn: Tensor) -> Tensor:
    """Probability of each id (…, S) given that those before it were drawn and are gone, from laws (…, V).

    As LANTERN has it: q_j / (1 − Σ_{i<j} q_i), what is no number −1, then clamped to [0, 1].
    """
    chosen = law.gather(-1, drawn)
    before = torch.cat([torch.zeros_like(chosen[..., :1]), chosen.cumsum(dim=-1)[..., :-1]], dim=-1)
    return (chosen / (1 - before)).nan_to_num(nan=-1.0, posinf=-1.0, neginf=-1.0).clamp(0, 1)


def take(hidden_RNC: Tensor, index_BM: Tensor) -> Tensor:
    """Hidden states (R, M, C) at an index that each row shares with its unconditional row."""
    index = index_BM.repeat(len(hidden_RNC) // len(index_BM), 1)
    return hidden_RNC.gather(1, index[..., None].expand(-1, -1, hidden_RNC.shape[2]))


def _below(ancestors: Tensor | None, above: Tensor, tokens_BN: Tensor) -> Tensor:
    """Ancestors (B, N, M + N) of N drafts that hang on the entries `above` of the level before."""
    b, n = tokens_BN.shape
    eye = torch.eye(n, dtype=torch.bool, device=tokens_BN.device).expand(b, n, n)
    return eye if ancestors is None else torch.cat([ancestors[:, above], eye], dim=2)


def _hidden(step: Step) -> Tensor:
    if step.hidden is None:
        raise InputError("strategy: a drafter needs the final hidden states of the model, and it gives none")
    return step.hidden


def _single(law_BNKV: Tensor) -> Tensor:
    """Laws (B, N, V) of models with one code per position."""
    if law_BNKV.shape[2] != 1:
        raise InputError(
            f"tree: {law_BNKV.shape[2]} codes per position need drafts in one line; use tree='chain'"
        )
    return law_BNKV[:, :, 0]
