"""What all subjects of one evaluation share: protocol, reference, extractor, processes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar

from visgen.evaluation.extractors import ExtractorOptions, FeatureExtractor, load_extractor
from visgen.evaluation.metrics import METRICS, NETWORK_METRICS, ROW_METRICS
from visgen.evaluation.networks import Network
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.pairs import Lpips
from visgen.evaluation.plan import Plan
from visgen.evaluation.real import RealSide, RealWants, look_at_reference, read_statistics
from visgen.evaluation.references import ArrayReference, StatisticsReference, open_reference
from visgen.evaluation.scenes.judge import Verdict
from visgen.processes import Processes

Loaded = TypeVar("Loaded")


class Memory:
    """What several evaluations look at once: extractors and references, under all that they depend on."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Loaded]) -> Loaded:
        """What `make` gave for an equal key the first time."""
        if key not in self._seen:
            self._seen[key] = make()
        return self._seen[key]


class Setting:
    """Loads what is needed when it is first needed, and sees a reference only once.

    Args:
        options: what is asked for.
        processes: whom to share the work with.
        memory: of earlier settings; None = a new one.
    """

    def __init__(
        self, options: EvaluationOptions, processes: Processes, memory: Memory | None = None
    ) -> None:
        self.options, self.processes = options, processes
        self._memory = memory or Memory()
        self.protocol = options.resolve_protocol()
        self.reference = open_reference(options.reference_name)
        own = str(processes.device) if processes.count > 1 else None
        self.device = options.device or own

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The protocol's feature extractor; raises `InputError` when its weights are nowhere."""
        options = ExtractorOptions(self.device or "cpu", self.options.inception_weights, self.options.offline)

        def load() -> FeatureExtractor:
            return first_on_main(self.processes, lambda: load_extractor(self.protocol, options))

        return self._memory.once(("extractor", self.protocol, options), load)

    @cached_property
    def lpips(self) -> Lpips:
        """LPIPS with the weights of the options; raises `InputError` when they do not fit."""
        return Lpips(self.options.lpips_weights, self.options.lpips_linear, self.device or "cpu")

    def networks(self, plan: Plan) -> dict[str, Network]:
        """Metric → its network, for the metrics of a plan that have one.

        Raises:
            InputError: weights that are nowhere.
        """
        return {metric: self._network(metric) for metric in NETWORK_METRICS if plan.wants(metric)}

    def _network(self, metric: str) -> Network:
        from visgen.evaluation.transformers_networks import load_network

        where = (metric, (self.options.feature_models or {}).get(metric), self.device or "cpu")
        load = partial(load_network, *where, self.options.offline)
        return self._memory.once(("network", *where), partial(first_on_main, self.processes, load))

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
        extractor = self.extractor if plan.features else None

        def look() -> RealSide:
            return look_at_reference(
                self.reference, plan.count, size, extractor, wants, self.processes, self.options.batch_size
            )

        weights = None if extractor is None else extractor.weights_sha256
        key = (plan.count, size, weights, wants, self.options.batch_size)
        return self._memory.once(("real", self.protocol, self.reference.name, *key), look)

    def real_verdicts(self, count: int, size: int) -> list[Verdict]:
        """What the checker says of the reference's own images 0 … `count` − 1."""
        from visgen.evaluation.scenes.adherence import verdicts

        def judge() -> list[Verdict]:
            return verdicts(self.reference.images(range(count), size), self.reference.scenes(range(count)))

        return self._memory.once(("verdicts", self.reference.name, count, size), judge)


def first_on_main(processes: Processes, load: Callable[[], Loaded]) -> Loaded:
    """`load` on the first process, then on the others: what one downloads, the others find."""
    if not processes.is_main:
        processes.wait()
        return load()
    try:
        return load()
    finally:
        processes.wait()
