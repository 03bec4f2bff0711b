"""Recoverable Compression (arXiv 2409.01179) as pure functions of features, keys and two scores.

Visually salient tokens stay, then those of the rest that speak of the text; what remains becomes a few
cluster tokens and one residual token. How many of each is the share of outliers among the scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.pruning.outliers import outlier_ratio

SCORE_NEIGHBOURS, CLUSTER_NEIGHBOURS = 20, 10
TEXT_WEIGHT = 50.0  # of text scores beside the cosine of keys, when clusters are formed
CLUSTER_SIZE = 32


@dataclass(frozen=True, eq=False)
class Recovered:
    """What is left of one image.

    Attributes:
        features_MC: kept tokens in raster order, cluster tokens by rank, the residual token. Without clusters
            the kept tokens alone.
        visual_V, text_T: tokens kept for their visual and for their text score, by rank.
        kept_K: both, ascending.
        centres_J: the tokens around which clusters formed, as indices among those that were not kept.
        rest_R: those that were not kept, ascending.
    """

    features_MC: Tensor
    visual_V: Tensor
    text_T: Tensor
    kept_K: Tensor
    centres_J: Tensor
    rest_R: Tensor


def cls_row(query_C: Tensor, keys_LC: Tensor) -> Tensor:
    """(N,) float32: attention of CLS to the patches in one head as wide as the tower.

    Args:
        query_C: the CLS token's, as `q_proj` gives it, heads not split.
        keys_LC: of CLS and N patches.
    """
    logits_L = keys_LC.float() @ query_C.float() * keys_LC.shape[-1] ** -0.5
    return logits_L.softmax(dim=0)[1:]


def text_similarity(image_ND: Tensor, text_D: Tensor) -> Tensor:
    """(N,) float32: cosine of patches and text in CLIP's common space, over the root of its width."""
    cosine_N = F.normalize(image_ND.float(), dim=-1) @ F.normalize(text_D.float(), dim=-1)
    return cosine_N * text_D.shape[-1] ** -0.5


@dataclass(frozen=True)
class Counts:
    """How many tokens stay for their visual and their text score, and how many clusters form."""

    visual: int
    text: int
    clusters: int

    @property
    def total(self) -> int:
        """Tokens that are left; clusters come with a residual token."""
        return self.visual + self.text + self.clusters + (self.clusters > 0)


def own_counts(visual_N: Tensor, text_N: Tensor, channels: int | None = None) -> Counts:
    """What the scores themselves say: as many tokens as there are outliers among them.

    Args:
        channels: the released code takes a share of the tower's channels for clusters; None = of the tokens
            that are left.
    """
    n = len(visual_N)
    visual = int(n * outlier_ratio(visual_N, SCORE_NEIGHBOURS))
    visual_V = visual_N.topk(visual).indices
    text = int((n - visual) * outlier_ratio(_lowered(text_N, visual_V), SCORE_NEIGHBOURS))
    rest_R = _rest(n, visual_V, _text_tokens(text_N, visual_V, text))
    share = outlier_ratio(visual_N[rest_R], CLUSTER_NEIGHBOURS)
    clusters = int((len(rest_R) if channels is None else channels) * share)
    return Counts(visual, text, min(clusters, len(rest_R)))


def fitted(counts: Counts, budget: int, n: int) -> Counts:
    """Counts in about the same proportion that leave `budget` of n tokens, 1 … n."""
    if budget >= n:
        return Counts(n, 0, 0)
    free = budget - (counts.clusters > 0)
    share = free / max(counts.visual + counts.text + counts.clusters, 1)
    clusters = min(round(counts.clusters * share), free - 1)
    if clusters < 1:
        clusters, free = 0, budget
    text = min(round(counts.text * share), free - clusters - 1)
    return Counts(free - clusters - text, text, clusters)


def recover(
    features_NC: Tensor,
    keys_NC: Tensor,
    visual_N: Tensor,
    text_N: Tensor,
    counts: Counts,
    *,
    aligned: bool = True,
) -> Recovered:
    """Compress the tokens of one image.

    Args:
        features_NC: what is kept and merged.
        keys_NC: of the tower's last layer, without CLS, by whose cosine clusters form.
        visual_N: `cls_row`.
        text_N: `text_similarity`.
        counts: of `own_counts` or `fitted`.
        aligned: False is the released code, where the keys of the first R tokens stand for those of the R
            tokens that are left.
    """
    visual_V = visual_N.topk(counts.visual).indices
    text_T = _text_tokens(text_N, visual_V, counts.text)
    rest_R = _rest(len(visual_N), visual_V, text_T)
    kept_K = torch.cat([visual_V, text_T]).unique()
    centres_J = visual_N[rest_R].topk(counts.clusters).indices
    main = features_NC[kept_K]
    if counts.clusters:
        keys_RC = keys_NC[rest_R] if aligned else keys_NC[: len(rest_R)]
        text_R = TEXT_WEIGHT * _lowered(text_N, visual_V)[rest_R]
        clusters = merge_rest(features_NC[rest_R], keys_RC, visual_N[rest_R], text_R, centres_J)
        main = torch.cat([main, clusters])
    return Recovered(main, visual_V, text_T, kept_K, centres_J, rest_R)


def merge_rest(
    features_RC: Tensor, keys_RC: Tensor, weight_R: Tensor, text_R: Tensor, centres_J: Tensor
) -> Tensor:
    """(J + 1, C): each centre plus its 32 nearest others, then all tokens that are no centres, as one.

    Near is what has a similar key and speaks of the text. Both sums are weighted by raw visual scores, so
    they are small corrections to a centre, and a small residual token.
    """
    unit_RC = F.normalize(keys_RC.float(), dim=-1)
    near_JR = unit_RC[centres_J] @ unit_RC.T + text_R
    near_JR.scatter_(1, centres_J[:, None], -torch.inf)  # not itself
    index_JS = near_JR.topk(min(CLUSTER_SIZE, len(features_RC) - 1), dim=1).indices
    weighted_RC = (weight_R[:, None] * features_RC.float()).to(features_RC.dtype)
    clusters_JC = features_RC[centres_J] + weighted_RC[index_JS].sum(dim=1)
    others = torch.ones_like(weight_R, dtype=torch.bool).scatter_(0, centres_J, False)
    return torch.cat([clusters_JC, weighted_RC[others].sum(dim=0, keepdim=True)])


def _lowered(text_N: Tensor, visual_V: Tensor) -> Tensor:
    """Text scores, the least of them for tokens that stay anyway."""
    return text_N.scatter(0, visual_V, text_N.min().expand(len(visual_V)))


def _text_tokens(text_N: Tensor, visual_V: Tensor, count: int) -> Tensor:
    return _lowered(text_N, visual_V).topk(count).indices


def _rest(n: int, *kept: Tensor) -> Tensor:
    """Tokens 0 … n − 1 that are not kept, ascending."""
    free_N = torch.ones(n, dtype=torch.bool, device=kept[0].device)
    free_N[torch.cat(kept)] = False
    return free_N.nonzero()[:, 0]
