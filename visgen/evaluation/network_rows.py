"""What FD-DINOv2, CMMD and CLIP score keep of images, and what they keep of the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from visgen.evaluation.bootstrap import FID_MAX_DIMS
from visgen.evaluation.networks import Network
from visgen.evaluation.passes import Part, Pass
from visgen.evaluation.statistics import FeatureStatistics, FeatureSums

Networks = Mapping[str, Network]  # metric → its network


@dataclass(frozen=True, eq=False)
class NetworkSide:
    """The reference under a network.

    Attributes:
        count: number of its images.
        statistics: of fd_dinov2.
        rows: (m, D), of cmmd.
    """

    count: int
    statistics: FeatureStatistics | None = None
    rows: Tensor | None = None


def keep_made(part: Part, images: Tensor, captions: Sequence[str], networks: Networks) -> None:
    """Keep what `networks` see in judged images, uint8 (B, 3, H, W), and in their captions."""
    for metric, network in networks.items():
        rows = network(images, captions)
        if metric == "fd_dinov2":
            part.add(**{metric: FeatureSums.of(rows)})
        if metric != "fd_dinov2" or network.dims <= FID_MAX_DIMS:
            part.keep(**{metric: rows})


def keep_real(part: Part, images: Tensor, networks: Sequence[Network]) -> None:
    """Keep what `networks` see in images of the reference, uint8 (B, 3, H, W)."""
    for network in networks:
        metric = network.recipe.metric
        rows = network(images, ())
        if metric == "fd_dinov2":
            part.add(**{metric: FeatureSums.of(rows)})
        else:
            part.keep(**{metric: rows})


def sides_of(seen: Pass, networks: Sequence[Network]) -> dict[str, NetworkSide]:
    """What a pass over the reference kept, by metric."""
    sides = {}
    for metric in (network.recipe.metric for network in networks):
        statistics = seen.sums[metric].statistics() if metric in seen.sums else None
        sides[metric] = NetworkSide(seen.count, statistics, seen.rows.get(metric))
    return sides
