"""Relaxed acceptance of LANTERN: a draft also counts the probability of its nearest codebook neighbours.

Nearby codes decode to nearly the same picture, so what the target gives to a draft's neighbours may go to the
draft, up to a bound on how far the law moves. The output has another law than the target's.
Sources: LANTERN (ICLR 2025, arXiv 2410.03355), LANTERN++ (SCOPE 2025, arXiv 2502.06352).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visgen.decoding.base import Draft
from visgen.decoding.decision import DecidingVerifier, Decision
from visgen.decoding.rules import normalised, probability, removed, without
from visgen.decoding.walk import Laws, walk
from visgen.errors import InputError

CHUNK = 512  # codes whose distances are held at once: 64 MB in float64 for 16,384 codes


@torch.no_grad()
def neighbour_table(codebook_VD: Tensor, k: int) -> Tensor:
    """Per code its nearest others by Euclidean distance, nearest first: (V, min(k + 1, V − 1)) int32.

    One more than the k that are counted: a rejection takes that one along.

    Raises:
        InputError: k is negative.
    """
    if k < 0:
        raise InputError(f"k={k} must be 0 or more neighbours")
    size = len(codebook_VD)
    codes = codebook_VD.detach().double()
    rows = []
    for start in range(0, size, CHUNK):
        part = codes[start : start + CHUNK]
        distance = torch.cdist(part, codes, compute_mode="donot_use_mm_for_euclid_dist")
        own = torch.arange(start, start + len(part), device=codes.device)
        distance[torch.arange(len(part), device=codes.device), own] = torch.inf
        rows.append(distance.topk(min(k + 1, size - 1), dim=1, largest=False, sorted=True).indices.int())
    return torch.cat(rows)


@dataclass(frozen=True)
class ImageIds:
    """Image tokens within a larger vocabulary, such as Lumina-mGPT's.

    Args:
        first: id of code 0.
        syntax: ids of the format, accepted whatever the law says. Other ids that are no codes have no chance.
    """

    first: int = 0
    syntax: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Whose probability a draft may count.

    Args:
        table: (V, M) int32 of `neighbour_table`, M at least min(k + 1, V − 1).
        k: neighbours that are looked at; 0 = no relaxation.
        delta: up to 1, the most probability that may be counted (LANTERN); above 1, the most in units of the
            draft's own, plus 1 (LANTERN++: λ = delta − 1).
        ids: where the codes are in the vocabulary.

    Raises:
        InputError: a k that the table has no room for, or a negative delta.
    """

    table: Tensor
    k: int
    delta: float
    ids: ImageIds = ImageIds()

    def __post_init__(self) -> None:
        size, columns = self.table.shape
        if not self.k >= 0 or columns < min(self.k + 1, size - 1) * (self.k > 0):
            raise InputError(f"k={self.k} neighbours need {self.k + 1} columns, and the table has {columns}")
        if not self.delta >= 0:
            raise InputError(f"delta={self.delta} must be 0 or more; up to 1 it bounds the moved probability")

    def of(self, tokens: Tensor, count: int) -> Tensor:
        """The nearest ids (…, count) of tokens (…); what is no code has those of some code."""
        codes = (tokens - self.ids.first).clamp(0, len(self.table) - 1)
        return self.table.to(tokens.device)[codes, :count].long() + self.ids.first

    def aggregate(self, p: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What tokens (…) count for under laws (…, V), and how many neighbours that includes.

        The longest prefix of the neighbours whose probability together is at most the bound. It is the total
        variation between p and the law that gives it all to the draft.
        """
        own = probability(p, tokens)
        mass = p.gather(-1, self.of(tokens, self.k)).cumsum(dim=-1)  # (…, k)
        bound = torch.full_like(own, self.delta) if self.delta <= 1 else (self.delta - 1) * own
        absorbed = (mass <= bound.unsqueeze(-1)).sum(dim=-1) * self._is_code(tokens)
        mass = torch.cat([torch.zeros_like(own).unsqueeze(-1), mass], dim=-1)
        total = self._formatted(own, tokens) + mass.gather(-1, absorbed.unsqueeze(-1)).squeeze(-1)
        return total, absorbed

    def removed(self, p: Tensor, tokens: Tensor, absorbed: Tensor) -> Tensor:
        """Laws (…, V) without the k + 1 nearest of the tokens that counted some (`absorbed` > 0)."""
        rest = p.scatter(-1, self.of(tokens, self.k + 1), 0)
        return torch.where((absorbed > 0).unsqueeze(-1), rest, p)

    def _is_code(self, tokens: Tensor) -> Tensor:
        return (tokens >= self.ids.first) & (tokens < self.ids.first + len(self.table))

    def _formatted(self, own: Tensor, tokens: Tensor) -> Tensor:
        if self.ids == ImageIds():
            return own
        syntax = torch.isin(tokens, torch.tensor(self.ids.syntax, device=tokens.device, dtype=tokens.dtype))
        return torch.where(syntax, 1.0, torch.where(self._is_code(tokens), own, 0.0))


@dataclass(frozen=True, eq=False)
class RelaxedRule:
    """Recursive rejection with counted neighbours; siblings are deterministic or drawn without replacement.

    A rejected deterministic draft takes itself and its neighbours out of p; a drawn one subtracts its law,
    but not where its neighbours are, which keep their probability.

    Args:
        official: where nothing of p is left, go on with a uniform law, as the published code does, masked ids
            included; else with p without the draft.
    """

    near: Neighbourhood
    official: bool = False

    def begin(self, p_BKV: Tensor, q_BKV: Tensor | None, siblings_B: Tensor) -> Laws:
        return (p_BKV,) if q_BKV is None else (p_BKV, q_BKV)

    def ratio(self, laws: Laws, tokens_BK: Tensor) -> Tensor:
        counted, _ = self.near.aggregate(laws[0], tokens_BK)
        if len(laws) == 1:
            return counted
        chance = probability(laws[1], tokens_BK).clamp(0, 1)
        return torch.where(chance > 0, counted / chance, 0.0)

    def reject(self, laws: Laws, tokens_BK: Tensor) -> Laws:
        p = laws[0]
        _, absorbed = self.near.aggregate(p, tokens_BK)
        bare = without(p, tokens_BK)
        fallback = torch.full_like(p, 1 / p.shape[-1]) if self.official else bare
        if len(laws) == 1:
            rest = self.near.removed(p.scatter(-1, tokens_BK.unsqueeze(-1), 0), tokens_BK, absorbed)
            return (normalised(rest, fallback),)
        q = laws[1]
        if self.near.ids.syntax:  # Lumina-mGPT: the neighbours lose their probability here too
            p = self.near.removed(p, tokens_BK, absorbed)
            rest = (p - q).clamp_min(0)
        else:
            rest = (p - self.near.removed(q, tokens_BK, absorbed)).clamp_min(0)
        drawn = (probability(q, tokens_BK) > 0).unsqueeze(-1)
        return torch.where(drawn, normalised(rest, fallback), laws[0]), removed(q, tokens_BK)


@dataclass(frozen=True, eq=False)
class RelaxedVerifier(DecidingVerifier):
    """LANTERN's walk down a tree: of deterministic drafts (no laws), or of siblings drawn without
    replacement.

    Args:
        neighbours: (V, M) int32 of `neighbour_table`.
        k, delta: see `Neighbourhood`; k = 0 is `RecursiveVerifier`.
        ids: where the codes are in the vocabulary.
        official: compare u <= ratio, and continue with a uniform law where nothing is left, as the published
            code does.
    """

    neighbours: Tensor
    k: int = 1000
    delta: float = 0.1
    ids: ImageIds = ImageIds()
    official: bool = False

    def __post_init__(self) -> None:
        self.near()

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        """Only without neighbours."""
        return self.k == 0 and not self.official

    def near(self) -> Neighbourhood:
        """Whose probability counts."""
        return Neighbourhood(self.neighbours, self.k, self.delta, self.ids)

    def decide(self, target_BNKV: Tensor, draft: Draft, uniforms_BNK: Tensor) -> Decision:
        rule = RelaxedRule(self.near(), self.official)
        return walk(target_BNKV, draft, uniforms_BNK, rule, inclusive=self.official)
