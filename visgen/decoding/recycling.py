"""Token recycling: a tree of successors seen before, verified as deterministic drafts; needs no training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from visgen.decoding.base import DecodingStats, DecodingStrategy, Law, Resources, Session
from visgen.decoding.drafts.recycling import RANK_CHANCES, RecyclingSource, static_tree
from visgen.decoding.engine import decode
from visgen.decoding.verifiers import RecursiveVerifier
from visgen.errors import InputError
from visgen.nn.noise import Noise

CPU_NODES, GPU_NODES = 7, 79


@dataclass(frozen=True)
class TokenRecycling(DecodingStrategy):
    """Draft what followed the same token before, and what stood below the same token (lossless).

    Args:
        nodes: drafts per pass; 0 is sequential, None is 7 on a CPU and 79 elsewhere.
        width: k, successors kept per token and table, at most 8.
        above: use the table of tokens above where the model has a grid.
    """

    nodes: int | None = None
    width: int = 8
    above: bool = True

    lossless = True
    main_option = "nodes"

    def __post_init__(self) -> None:
        if self.nodes is not None and self.nodes < 0:
            raise InputError(f"nodes={self.nodes} must be 0 or more, or None")
        if not 1 <= self.width <= len(RANK_CHANCES):
            raise InputError(f"width={self.width} must be between 1 and {len(RANK_CHANCES)}")

    @property
    def entries(self) -> int:
        return 1 + (GPU_NODES if self.nodes is None else self.nodes)

    def __call__(
        self, session: Session, law: Law, noise: Noise, resources: Resources | None = None
    ) -> tuple[Tensor, DecodingStats]:
        nodes = self.nodes
        if nodes is None:
            nodes = CPU_NODES if session.device.type == "cpu" else GPU_NODES
        shape = static_tree(nodes, self.width).to(session.device)
        grid = resources.grid if resources and self.above else None
        stride = session.length // grid[0] if grid else None  # line ends count as columns
        return decode(session, law, noise, RecyclingSource(shape, self.width, stride), RecursiveVerifier())
