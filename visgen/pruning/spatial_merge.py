"""MustDrop's first stage (arXiv 2411.10803).

Windows of like patches become one token inside the vision tower; the patches that CLS looks at most become a
key set that later stages keep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.errors import InputError


@dataclass(frozen=True, eq=False)
class SpatialMerge:
    """A merged sequence: CLS if there is one, merged windows by falling similarity, other patches in raster
    order.

    Attributes:
        hidden_BMD: M = 1 + r + N − r · K of windows of K patches, one less without CLS.
        sizes_BM: how many tokens each row is the mean of, int64.
        rows_BN: which row of the merged sequence each of the N patches went to, int64; row 0 is CLS.
        sources_BM: for each row the patch whose place it takes: of a window the middle one. CLS is left out.
        num_merged: r, windows merged per image.
    """

    hidden_BMD: Tensor
    sizes_BM: Tensor
    rows_BN: Tensor
    sources_BM: Tensor
    num_merged: int


def spatial_merge(
    hidden_BLD: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    threshold: float = 0.8,
    window: tuple[int, int] = (3, 3),
    has_cls: bool = True,
) -> SpatialMerge:
    """Merge the windows whose patches are alike, the same number r in each image of the batch.

    r is the least number of windows that reach `threshold` in any of them: crops of one picture keep one
    length. A merged token is the plain mean of its window.

    Args:
        hidden_BLD: CLS if `has_cls`, then the patches in raster order.
        grid: rows and columns of patches; None = a square.
        threshold: mean cosine similarity of a window's ordered pairs from which on it counts, [−1, 1].
        window: rows and columns of patches.

    Raises:
        InputError: patches that do not fill the grid, or a grid that windows do not fill.
    """
    first = int(has_cls)
    rows, columns = _grid(hidden_BLD.shape[1] - first, grid)
    if rows % window[0] or columns % window[1]:
        raise InputError(
            f"window={window} does not divide a grid of {rows}×{columns} patches; use {_divisors(rows)} rows "
            f"and {_divisors(columns)} columns"
        )
    patch_WK = _window_patches(rows, columns, window).to(hidden_BLD.device)
    windows_BWKD = hidden_BLD[:, first:][:, patch_WK]
    similarity_BW = window_similarity(windows_BWKD)
    r = int((similarity_BW >= threshold).sum(dim=1).min())
    merged_BR = similarity_BW.topk(r, dim=1).indices
    return _assemble(hidden_BLD, windows_BWKD, merged_BR, patch_WK, first)


def window_similarity(windows_BWKD: Tensor) -> Tensor:
    """(B, W) mean cosine similarity of all ordered pairs of different tokens of each window, float32."""
    x, k = windows_BWKD.float(), windows_BWKD.shape[2]
    total = torch.zeros_like(x[:, :, 0, 0])
    for token in range(k):  # one token against its window: K products of the windows' size, not K²
        pairs_BWK = F.cosine_similarity(x[:, :, token : token + 1], x, dim=-1)
        total += pairs_BWK.sum(dim=-1) - pairs_BWK[..., token]
    return total / max(k * (k - 1), 1)


def key_tokens(scores_BN: Tensor, rate: float) -> Tensor:
    """(B, ⌈rate · N⌉) int64: the patches that CLS attends to most, by rank.

    Args:
        scores_BN: CLS attention, mean over heads, of the (merged) patches.
        rate: share in (0, 1].
    """
    if not 0 < rate <= 1:
        raise InputError(f"key_rate={rate} is no share of tokens; use one in (0, 1], such as 0.08")
    return scores_BN.topk(math.ceil(rate * scores_BN.shape[-1]), dim=-1).indices


def _grid(patches: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    rows, columns = grid or (math.isqrt(patches), math.isqrt(patches))
    if rows * columns != patches:
        raise InputError(
            f"grid={grid} does not hold {patches} patches beside CLS; give their rows and columns"
        )
    return rows, columns


def _divisors(number: int) -> str:
    divisors = [str(d) for d in range(1, number + 1) if number % d == 0]
    return " or ".join([", ".join(divisors[:-1]), divisors[-1]]) if number > 1 else "1"


def _window_patches(rows: int, columns: int, window: tuple[int, int]) -> Tensor:
    """(W, K): the patches of each window, windows and patches in raster order."""
    height, width = window
    patch = torch.arange(rows * columns).view(rows // height, height, columns // width, width)
    return patch.transpose(1, 2).reshape(-1, height * width)


def _assemble(
    hidden_BLD: Tensor, windows_BWKD: Tensor, merged_BR: Tensor, patch_WK: Tensor, first: int
) -> SpatialMerge:
    (b, w, k, d), r = windows_BWKD.shape, merged_BR.shape[1]
    means_BRD = windows_BWKD.sum(dim=2).gather(1, merged_BR[..., None].expand(-1, -1, d)) / k
    rank_BN = _ranks(merged_BR, patch_WK)
    rest_BN = rank_BN < 0
    rest_BPD = hidden_BLD[:, first:][rest_BN].view(b, (w - r) * k, d)
    rows_BN = torch.where(rest_BN, r + rest_BN.long().cumsum(dim=1) - 1, rank_BN) + first
    hidden_BMD = torch.cat([hidden_BLD[:, :first], means_BRD, rest_BPD], dim=1)
    sizes_BM = torch.ones_like(hidden_BMD[..., 0], dtype=torch.long)
    sizes_BM[:, first : first + r] = k
    patch_BN = rows_BN.argsort(dim=1, stable=True)  # of the first row, of the second …
    middles_BR = patch_BN[:, : r * k].view(b, r, k)[..., k // 2]
    sources_BM = torch.cat([middles_BR, patch_BN[:, r * k :]], dim=1)
    return SpatialMerge(hidden_BMD, sizes_BM, rows_BN, sources_BM, r)


def _ranks(merged_BR: Tensor, patch_WK: Tensor) -> Tensor:
    """(B, N): the rank of each patch's window among the merged ones, −1 where it stays as it is."""
    (b, r), (w, k) = merged_BR.shape, patch_WK.shape
    rank_BW = merged_BR.new_full((b, w), -1)
    rank_BW.scatter_(1, merged_BR, torch.arange(r, device=merged_BR.device).expand(b, r))
    rank_BN = merged_BR.new_empty(b, w * k)
    rank_BN[:, patch_WK.flatten()] = rank_BW.repeat_interleave(k, dim=1)
    return rank_BN
