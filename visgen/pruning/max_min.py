"""Greedy maximum of the least distance (farthest-point selection) under cosine distance.

The seed is the token whose nearest other token is farthest; then the token whose nearest chosen token is
farthest, again and again. Ties go to the lowest index. Two ways with equal choices: `dense` makes all
distances at once, `lazy` only the rows that matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOOKAHEAD = 64  # rows of one product: as one matrix product they cost about what 6 products by a vector do
SEED_ROWS = 256
ROUNDING = 1e-6  # two products of the same two unit vectors may differ so much


def unit_rows(features: Tensor) -> Tensor:
    """Rows (…, D) over their length, float32; a row of length 0 stays 0, at distance 1 from every other."""
    rows = features.float()
    norm = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(norm > 0, norm, 1.0)


def cosine_distance(unit_BND: Tensor) -> Tensor:
    """1 − cos of all pairs, (B, N, N), one matrix product each."""
    return 1 - unit_BND @ unit_BND.mT


def dense(unit_BND: Tensor, k: int, *, mask_BN: Tensor | None = None, strict: bool = True) -> Tensor:
    """Choices (B, k) of a batch from all N × N distances; nothing is read back to the host.

    Args:
        unit_BND: rows of length 1, or 0.
        k: how many, at most N. Choices are nested: the first j of k are the choices of j.
        mask_BN: True = present; None = all. A row's choices beyond its present tokens mean nothing.
        strict: never choose a token twice; False = the released code's rule, a chosen token merely has
            distance ~0 to itself.
    """
    distance_BNN = cosine_distance(unit_BND)
    absent_BN = None if mask_BN is None else ~mask_BN
    seeds_BN = _fill(_second_smallest(_fill(distance_BNN, absent_BN, torch.inf)), absent_BN, -torch.inf)
    index = torch.arange(len(unit_BND), device=unit_BND.device)
    chosen = [seeds_BN.argmax(dim=1)]
    best_BN = _fill(distance_BNN[index, chosen[0]], absent_BN, -torch.inf)
    for _ in range(k - 1):
        if strict:
            best_BN.scatter_(1, chosen[-1][:, None], -torch.inf)
        chosen.append(best_BN.argmax(dim=1))
        torch.minimum(best_BN, distance_BNN[index, chosen[-1]], out=best_BN)
    return torch.stack(chosen, dim=1)


def _fill(x: Tensor, absent_BN: Tensor | None, value: float) -> Tensor:
    """x (B, N) or (B, N, N) with `value` at absent tokens (of the last dimension)."""
    if absent_BN is None:
        return x
    return x.masked_fill(absent_BN if x.ndim == 2 else absent_BN[:, None], value)


def _second_smallest(distance: Tensor) -> Tensor:
    """Distance to the nearest other token, (…), of rows (…, N): the smallest entry is the token itself."""
    order = min(2, distance.shape[-1])
    return distance.topk(order, largest=False).values[..., -1]


def lazy(unit_ND: Tensor, k: int) -> Tensor:
    """Choices (k,) for many tokens, from the rows of distances that matter; never chooses a token twice.

    Memory is O((D + `SEED_ROWS`) N). Every few steps one product gives the rows of the candidates that lead,
    and the next choices are mostly among them.
    """
    pick = _lazy_seed(unit_ND)
    best_N = torch.full_like(unit_ND[:, 0], torch.inf)
    chosen, slots, rows = [pick], {}, unit_ND[:0]
    for step in range(k):
        if pick not in slots:
            block = _leaders(best_N, pick)
            slots = {token: slot for slot, token in enumerate(block.tolist())}
            rows = 1 - unit_ND[block] @ unit_ND.T
        torch.minimum(best_N, rows[slots[pick]], out=best_N)
        best_N[pick] = -torch.inf
        if step < k - 1:
            pick = int(best_N.argmax())
            chosen.append(pick)
    return torch.tensor(chosen, device=unit_ND.device)


def _leaders(best_N: Tensor, pick: int) -> Tensor:
    """`pick`, then the tokens that would come next if it changed nothing."""
    if best_N[pick] == torch.inf:  # no distance is known yet
        return torch.tensor([pick], device=best_N.device)
    leaders = best_N.topk(min(LOOKAHEAD, len(best_N))).indices
    first = torch.tensor([pick], device=best_N.device)
    return torch.cat([first, leaders[leaders != pick]])


def _lazy_seed(unit_ND: Tensor) -> int:
    """The token whose nearest other token is farthest.

    Every known row bounds all tokens from above: those whose bound is below a known distance are out.
    """
    n = len(unit_ND)
    bound_N = torch.full_like(unit_ND[:, 0], torch.inf)
    exact_N = torch.full_like(bound_N, -torch.inf)
    block = torch.arange(0, n, max(1, n // SEED_ROWS), device=unit_ND.device)[:SEED_ROWS]
    while len(block):
        rows = 1 - unit_ND[block] @ unit_ND.T
        exact_N[block] = _second_smallest(rows)
        torch.minimum(bound_N, rows.amin(dim=0), out=bound_N)
        bound_N[block] = -torch.inf
        open_N = bound_N >= exact_N.max() - ROUNDING
        block = bound_N.masked_fill(~open_N, -torch.inf).topk(min(SEED_ROWS, int(open_N.sum()))).indices
    return int(exact_N.argmax())
