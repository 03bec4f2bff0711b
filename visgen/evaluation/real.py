"""The reference's side of a comparison: statistics and features of real images, and their own distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from visgen.evaluation.extractors import FeatureExtractor
from visgen.evaluation.network_rows import NetworkSide, keep_real, sides_of
from visgen.evaluation.networks import Network
from visgen.evaluation.passes import Part, Pass, run_pass
from visgen.evaluation.protocols import EvaluationProtocol
from visgen.evaluation.references import ArrayReference, Reference, StatisticsReference
from visgen.evaluation.statistics import FeatureStatistics, FeatureSums, frechet_distance
from visgen.evaluation.statistics_file import load_statistics, statistics_digest
from visgen.processes import Processes


@dataclass(frozen=True, eq=False)
class RealSide:
    """What the reference is to a comparison.

    Attributes:
        name: of the reference.
        digest: of its images in index order; of mean and covariance where a file holds only those.
        count: number of images; None where a file does not say.
        statistics: None when no metric compares features.
        features: (n, D), where metrics need them.
        floor: Fréchet distance of real images to other real ones; None unless asked for.
        floor_counts: images on either side of it.
        networks: metric → what the network of that metric saw.
    """

    name: str
    digest: str
    count: int | None
    statistics: FeatureStatistics | None = None
    features: Tensor | None = None
    floor: float | None = None
    floor_counts: tuple[int, int] | None = None
    networks: dict[str, NetworkSide] = field(default_factory=dict)


@dataclass(frozen=True)
class RealWants:
    """What a comparison asks of the reference: rows of features, the distance of real to real, and what other
    networks see."""

    rows: bool = False
    floor: bool = False
    networks: tuple[Network, ...] = ()


def keep_features(part: Part, indices: Sequence[int], features: Tensor, rows: bool) -> None:
    """Keep the sums of features (B, D), those of even and of odd indices apart; the rows too if wanted."""
    odd = torch.tensor([i % 2 == 1 for i in indices])
    part.add(even=FeatureSums.of(features[~odd]), odd=FeatureSums.of(features[odd]))
    if rows:
        part.keep(features=features)


def look_at_reference(
    reference: Reference,
    count: int,
    size: int,
    extractor: FeatureExtractor | None,
    wants: RealWants,
    processes: Processes,
    batch_size: int,
) -> RealSide:
    """See all images of a folder, or of an endless reference as many as are judged, and other ones.

    What is judged has the captions of the images 0 … N − 1, or is made of them. Where images never end it is
    compared with the images N … 2N − 1: a twin in the reference would make KID negative, precision 100 %, and
    FID smaller than that of real images.

    Args:
        reference: has images.
        count: images that are judged.
        size: side of the images in pixels.
        extractor: None when no metric compares features.
        wants: what else to keep.
        processes: whom to share the work with.
        batch_size: images at once.
    """

    def see(total: int, first: int, rows: bool) -> Pass:
        def work(indices: list[int], part: Part) -> None:
            images = reference.images([first + i for i in indices], size)
            part.keep_images(images)
            if extractor is not None:
                keep_features(part, indices, extractor(images).features, rows)
            if first or not endless:
                keep_real(part, images, wants.networks)

        return run_pass(total, work, processes, batch_size, "reference")

    endless = reference.length is None
    looked = extractor is not None or wants.networks
    whole = reference.length if reference.length is not None and looked else count
    seen = see(whole, count if endless else 0, wants.rows)
    sides = sides_of(seen, wants.networks)
    if extractor is None:
        return RealSide(reference.name, seen.images_sha256, whole, networks=sides)
    statistics = (seen.sums["even"] + seen.sums["odd"]).statistics()
    floor, counts = None, None
    if wants.floor:
        others = see(count, 0, False).sums if endless else None
        floor, counts = _floor(seen.sums, others)
    rows = seen.rows.get("features")
    return RealSide(reference.name, seen.images_sha256, whole, statistics, rows, floor, counts, sides)


def _floor(
    sums: dict[str, FeatureSums], others: dict[str, FeatureSums] | None
) -> tuple[float | None, tuple[int, int] | None]:
    """Real against real: the images 0 … N − 1 where they are others, else the two halves."""
    if others is None:
        sides = sums["even"], sums["odd"]
    else:
        sides = sums["even"] + sums["odd"], others["even"] + others["odd"]
    counts = sides[0].count, sides[1].count
    if min(counts) < 2:
        return None, None
    return frechet_distance(sides[0].statistics(), sides[1].statistics()), counts


def read_statistics(
    reference: StatisticsReference | ArrayReference, protocol: EvaluationProtocol, weights_sha256: str
) -> RealSide:
    """The side of a precomputed file; raises `InputError` when it does not fit the protocol."""
    found = load_statistics(Path(reference.path), protocol, weights_sha256)
    digest = found.images_sha256 or statistics_digest(found.statistics)
    return RealSide(reference.name, digest, found.statistics.count, found.statistics)
