"""GlobalCom² (arXiv 2501.05179): how much of each crop stays, and which tokens, as the thumbnail commands.

Scores are the CLS token's attention *logits* in the last layer of the tower: scaled, before softmax, mean
over heads; they may be negative. Crops are row-major; the thumbnail has as many tokens as a crop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.pruning.anyres import Canvas, Region


def thumbnail_tokens(scores_N: Tensor, ratio: float) -> Tensor:
    """The int(N · ratio) best tokens by rank, int64; the first of equal ones first."""
    return _ranked(scores_N)[: int(len(scores_N) * ratio)]


def crop_ratios(scores_N: Tensor, canvas: Canvas, ratio: float, temperature: float = 10.0) -> Tensor:
    """(crops,) float64: the share of its tokens that each crop keeps, at most 1; `ratio` on average, if none
    was above 1.

    A crop gets more the higher the sum of the thumbnail's scores over what it shows; that is softmax of the
    sums over `temperature`, and as the sums run over many tokens, mostly one crop takes the surplus.

    Args:
        scores_N: of the thumbnail, `canvas.side`² of them.
    """
    sums = _block_sums(scores_N.double(), canvas)
    weights = ((sums - sums.max()) / temperature).exp()
    shares = weights / (weights.sum() + 1e-8)
    return (ratio * (1 + shares - shares.mean())).clamp(max=1.0)


def _block_sums(scores_N: Tensor, canvas: Canvas) -> Tensor:
    """Sums over the thumbnail's blocks, one per crop; the last block of a side takes what is left over."""
    side = torch.arange(canvas.side, device=scores_N.device)
    rows = (side // max(canvas.side // canvas.rows, 1)).clamp(max=canvas.rows - 1)
    columns = (side // max(canvas.side // canvas.columns, 1)).clamp(max=canvas.columns - 1)
    block_N = (rows[:, None] * canvas.columns + columns).flatten()
    return scores_N.new_zeros(canvas.rows * canvas.columns).index_add(0, block_N, scores_N)


def global_scores(scores_N: Tensor, canvas: Canvas, region: Region) -> list[Tensor]:
    """The thumbnail's scores at the unpadded tokens of each crop: its map, bilinear over the region."""
    if 0 in region.size:
        return [scores_N[:0] for _ in range(canvas.rows * canvas.columns)]
    map_11GG = scores_N.view(1, 1, canvas.side, canvas.side)
    return canvas.cut(F.interpolate(map_11GG, region.size, mode="bilinear")[0, 0], region)


def crop_tokens(local_V: Tensor, global_V: Tensor, ratio: float) -> Tensor:
    """The int(V · ratio) best unpadded tokens of a crop by rank, as indices among its unpadded tokens: local
    and global scores count alike, each a vector of length 1."""
    combined_V = F.normalize(local_V, dim=0) + F.normalize(global_V, dim=0)
    return _ranked(combined_V)[: int(len(combined_V) * ratio)]


def all_crop_tokens(
    thumbnail_N: Tensor, crops_CN: Tensor, canvas: Canvas, region: Region, ratio: float
) -> tuple[list[Tensor], list[Tensor]]:
    """For each crop its kept tokens by rank, and its unpadded ones: indices among the latter, and tokens."""
    ratios = crop_ratios(thumbnail_N, canvas, ratio).tolist()
    seen = [canvas.tokens(part).to(crops_CN.device) for part in canvas.crops(region)]
    found = zip(crops_CN, seen, global_scores(thumbnail_N, canvas, region), ratios)
    return [crop_tokens(local[valid], above, share) for local, valid, above, share in found], seen


def _ranked(scores_N: Tensor) -> Tensor:
    return scores_N.argsort(descending=True, stable=True)
