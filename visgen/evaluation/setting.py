"""What all subjects of one evaluation share: protocol, reference, extractor, processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar

from visgen.evaluation.extractors import ExtractorOptions, FeatureExtractor, load_extractor
from visgen.evaluation.metrics import METRICS, NETWORK_METRICS, ROW_METRICS
from visgen.evaluation.networks import Network
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.pairs import Lpips
from visgen.evaluation.plan import Plan
from visgen.evaluation.real import RealSide, RealWants, look_at_reference, read_statistics
from visgen.evaluation.references import ArrayReference, StatisticsReference, open_reference
from visgen.processes import Processes

Loaded = TypeVar("Loaded")


class Setting:
    """Loads what is needed when it is first needed, and sees a reference only once.

    Args:
        options: what is asked for.
        processes: whom to share the work with.
    """

    def __init__(self, options: EvaluationOptions, processes: Processes) -> None:
        self.options, self.processes = options, processes
        self.protocol = options.resolve_protocol()
        self.reference = open_reference(options.reference_name)
        own = str(processes.device) if processes.count > 1 else None
        self.device = options.device or own
        self._seen: dict[tuple, RealSide] = {}
        self._networks: dict[str, Network] = {}

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The protocol's feature extractor; raises `InputError` when its weights are nowhere."""
        options = ExtractorOptions(self.device or "cpu", self.options.inception_weights, self.options.offline)
        return first_on_main(self.processes, lambda: load_extractor(self.protocol, options))

    @cached_property
    def lpips(self) -> Lpips:
        """LPIPS with the weights of the options; raises `InputError` when they do not fit."""
        return Lpips(self.options.lpips_weights, self.options.lpips_linear, self.device or "cpu")

    def networks(self, plan: Plan) -> dict[str, Network]:
        """Metric → its network, for the metrics of a plan that have one.

        Raises:
            InputError: weights that are nowhere.
        """
        for metric in NETWORK_METRICS:
            if plan.wants(metric) and metric not in self._networks:
                self._networks[metric] = first_on_main(self.processes, partial(self._network, metric))
        return {metric: self._networks[metric] for metric in NETWORK_METRICS if plan.wants(metric)}

    def _network(self, metric: str) -> Network:
        from visgen.evaluation.transformers_networks import load_network

        name = (self.options.feature_models or {}).get(metric)
        return load_network(metric, name, self.device or "cpu", self.options.offline)

    def real(self, plan: Plan, size: int) -> RealSide | None:
        """The reference's side for images of `size` pixels; None when no metric looks at it.

        Where a file holds images and statistics, distances of FID are to the statistics.
        """
        networks = self.networks(plan)  # refused before anything is looked at
        if not plan.needs_reference:
            return None
        told = self._told(plan)
        if told is not None and not plan.needs_images:
            return told
        others = tuple(network for metric, network in networks.items() if METRICS[metric].real_images)
        seen = self._see(plan, size, others)
        if told is None:
            return seen
        return replace(seen, statistics=told.statistics, digest=told.digest, count=told.count)

    def _told(self, plan: Plan) -> RealSide | None:
        """What the reference's file says of mean and covariance, where it says so and it is asked for."""
        file = self.reference
        if isinstance(file, StatisticsReference) or (
            isinstance(file, ArrayReference) and file.has_statistics and plan.features
        ):
            return read_statistics(file, self.protocol, self.extractor.weights_sha256)
        return None

    def _see(self, plan: Plan, size: int, networks: tuple[Network, ...]) -> RealSide:
        """What the reference's images look like, seen once for all subjects."""
        wants = RealWants(plan.wants(*ROW_METRICS), plan.wants("fid") and plan.wants("rfid"), networks)
        key = (plan.count, size, plan.features, wants)
        if key not in self._seen:
            self._seen[key] = look_at_reference(
                self.reference,
                plan.count,
                size,
                self.extractor if plan.features else None,
                wants,
                self.processes,
                self.options.batch_size,
            )
        return self._seen[key]


def first_on_main(processes: Processes, load: Callable[[], Loaded]) -> Loaded:
    """`load` on the first process, then on the others: what one downloads, the others find."""
    if not processes.is_main:
        processes.wait()
        return load()
    try:
        return load()
    finally:
        processes.wait()
