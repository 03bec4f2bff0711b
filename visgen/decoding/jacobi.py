"""Jacobi decoding: the model drafts for itself, a window ahead, and its next pass verifies the drafts.

`sjd` is Speculative Jacobi Decoding (Teng et al., ICLR 2025) with true laws of the initial drafts; `jacobi`
couples the drafts of consecutive passes (MC-SJD, SJD-PAC) and adds alternatives at the window's first levels.
Both are lossless. Neither needs training or a second model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visgen.decoding.base import DecodingStats, DecodingStrategy, Law, Resources, Session, Verifier
from visgen.decoding.drafts.fresh import INITS, make_fresh
from visgen.decoding.drafts.jacobi import JacobiSource, SharedNoiseSource
from visgen.decoding.drafts.window import WindowShape
from visgen.decoding.engine import decode
from visgen.decoding.shared_noise import SharedNoiseVerifier
from visgen.decoding.verifiers import BlockVerifier, ChainVerifier, RecursiveVerifier
from visgen.errors import InputError
from visgen.nn.noise import Noise

Init = Literal["uniform", "random", "left", "above", "law", "law-above"]

# A pass over more entries costs a GPU next to nothing, a CPU more with every one.
CPU_WINDOW, GPU_WINDOW = 8, 32


@dataclass(frozen=True)
class SpeculativeJacobi(DecodingStrategy):
    """Speculative Jacobi decoding: after a pass, the drafts behind the kept tokens are drawn anew from its
    laws.

    Args:
        window: entries per pass, the last token included; 1 is sequential, None is 8 on a CPU and 32
            elsewhere.
        init: what enters the window: "uniform", "law" (the law of the window's last slot) and "law-above"
            (that of the position above) are drawn; "random", "left" and "above" are taken for certain.
        verifier: "chain" tests token by token, "block" the window as a whole (more tokens per pass).
        interval: (first, end) positions of the image where drafts are used; None = all.
    """

    window: int | None = None
    init: Init = "uniform"
    verifier: Literal["chain", "block"] = "chain"
    interval: tuple[int, int] | None = None

    lossless = True
    main_option = "window"

    def __post_init__(self) -> None:
        _check_window(self.window)
        _check_choice("init", self.init, INITS)
        _check_choice("verifier", self.verifier, ("chain", "block"))
        if self.interval is not None and not 0 <= self.interval[0] <= self.interval[1]:
            raise InputError(
                f"interval={self.interval} must be two positions, the first not after the second"
            )

    @property
    def entries(self) -> int:
        return self.window or GPU_WINDOW

    def __call__(
        self, session: Session, law: Law, noise: Noise, resources: Resources | None = None
    ) -> tuple[Tensor, DecodingStats]:
        shape = WindowShape.build(_window(self.window, session.device)).to(session.device)
        fresh = make_fresh(self.init, shape.length, session.length, resources.grid if resources else None)
        verifier: Verifier = BlockVerifier() if self.verifier == "block" else ChainVerifier()
        return decode(session, law, noise, JacobiSource(shape, "independent", fresh, self.interval), verifier)


@dataclass(frozen=True)
class CoupledJacobi(DecodingStrategy):
    """Jacobi decoding whose drafts stay from pass to pass as far as their laws allow.

    Args:
        window: entries per pass, alternatives and the last token included; 1 is sequential, None is 8 on a
            CPU and 32 elsewhere.
        coupling: "maximal" keeps most drafts; "shared" gives, token for token, what `Sequential` gives with
            the same noise; "independent" draws anew.
        branching: K, drafts per position for the first `depth` positions; 1 = a chain, all there is for
            models of several codes per position.
        depth: D, see `branching`.
        init: as in `SpeculativeJacobi`.
        verifier: "chain", or "block" for coupling="independent" without branching.
    """

    window: int | None = None
    coupling: Literal["maximal", "shared", "independent"] = "maximal"
    branching: int = 1
    depth: int = 2
    init: Init = "law"
    verifier: Literal["chain", "block"] = "chain"

    lossless = True
    main_option = "window"

    def __post_init__(self) -> None:
        _check_window(self.window)
        _check_choice("coupling", self.coupling, ("maximal", "shared", "independent"))
        _check_choice("init", self.init, INITS)
        _check_choice("verifier", self.verifier, ("chain", "block"))
        if self.branching < 1 or self.depth < 1:
            raise InputError(f"branching={self.branching} and depth={self.depth} must be 1 or more")
        if self.verifier == "block" and (self.coupling != "independent" or self.branching > 1):
            raise InputError(
                'verifier="block" is exact only for drafts drawn anew in one line: use '
                'coupling="independent" and branching=1, or verifier="chain"'
            )
        if self.window is not None:
            WindowShape.build(self.window, self.branching, self.depth)

    @property
    def entries(self) -> int:
        return self.window or GPU_WINDOW

    def __call__(
        self, session: Session, law: Law, noise: Noise, resources: Resources | None = None
    ) -> tuple[Tensor, DecodingStats]:
        if self.branching > 1 and session.num_codes > 1:
            raise InputError(
                f"branching={self.branching} needs one code per position, and this model has "
                f"{session.num_codes}; use branching=1"
            )
        entries = _window(self.window, session.device)
        shape = WindowShape.build(entries, self.branching, self.depth).to(session.device)
        fresh = make_fresh(self.init, shape.length, session.length, resources.grid if resources else None)
        if self.coupling == "shared":
            shared = SharedNoiseVerifier(shape)
            return decode(session, law, noise, SharedNoiseSource(shape, fresh, shared), shared)
        return decode(session, law, noise, JacobiSource(shape, self.coupling, fresh), self._verifier())

    def _verifier(self) -> Verifier:
        if self.branching > 1:
            return RecursiveVerifier(replacement=False)
        return BlockVerifier() if self.verifier == "block" else ChainVerifier()


def _window(window: int | None, device: torch.device) -> int:
    return window or (CPU_WINDOW if device.type == "cpu" else GPU_WINDOW)


def _check_window(window: int | None) -> None:
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
        raise InputError(f"window={window!r} must be a whole number of entries, 1 or more, or None")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}={value!r} is unknown; use one of {', '.join(choices)}")
