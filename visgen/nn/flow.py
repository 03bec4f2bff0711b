"""Rectified flow: straight paths between noise (t = 1) and data (t = 0), their training pairs, Euler and
Euler–Maruyama sampling, and guidance.

Guidance is u + s (c − u) ("cfg"), or adaptive projected guidance ("apg", arXiv 2410.02416), which keeps
strong guidance from saturating colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from visgen.errors import InputError

# (x, t, guided) → v of the condition, or with `guided` the pair (v of the condition, v without it)
Velocity = Callable[[Tensor, float, bool], Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FlowSampling:
    """How a flow model is sampled.

    Args:
        num_inference_steps: Euler steps n; the model is asked at t = 1, (n − 1)/n, … 1/n.
        guidance_scale: s; 1 is off and costs no second pass.
        guidance: "cfg" or "apg".
        guidance_schedule: "constant", or "linear": 1 + (s − 1) t, strongest in the noise.
        guidance_interval: range of t in which guidance is on.
        apg_momentum, apg_norm, apg_parallel: of "apg", see `ProjectedGuidance`.

    Raises:
        InputError: a value out of range.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 1.0
    guidance: Literal["cfg", "apg"] = "cfg"
    guidance_schedule: Literal["constant", "linear"] = "constant"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    apg_momentum: float = -0.5
    apg_norm: float = 2.5
    apg_parallel: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        checks = {
            "num_inference_steps": (self.num_inference_steps >= 1, "1 or more"),
            "guidance_scale": (0 <= self.guidance_scale < math.inf, "a number from 0; 1 is off"),
            "guidance": (self.guidance in ("cfg", "apg"), "cfg or apg"),
            "guidance_schedule": (self.guidance_schedule in ("constant", "linear"), "constant or linear"),
            "guidance_interval": (0 <= low <= high <= 1, "two times from 0 to 1, the smaller first"),
            "apg_momentum": (-1 < self.apg_momentum < 1, "a number between -1 and 1"),
            "apg_norm": (0 <= self.apg_norm < math.inf, "a norm from 0; 0 is off"),
            "apg_parallel": (0 <= self.apg_parallel <= 1, "a fraction from 0 to 1"),
        }
        for name, (good, works) in checks.items():
            if not good:
                raise InputError(f"{name}={getattr(self, name)!r} is out of range; use {works}")

    def scale_at(self, t: float) -> float:
        """Guidance scale at time t."""
        low, high = self.guidance_interval
        if not low <= t <= high:
            return 1.0
        return (
            1 + (self.guidance_scale - 1) * t if self.guidance_schedule == "linear" else self.guidance_scale
        )

    @property
    def times(self) -> list[float]:
        """The n times at which the model is asked, falling from 1."""
        return [i / self.num_inference_steps for i in range(self.num_inference_steps, 0, -1)]


class ProjectedGuidance:
    """Adaptive projected guidance of one sampling run; every image by itself.

    The difference of the two predictions gets momentum (negative: against the steps before), is shortened to
    `norm`, and loses its part along the conditional prediction.

    Args:
        momentum: weight of the differences before.
        norm: largest L2 norm of an image's difference, 0 = any.
        parallel: share that is kept of the part along the conditional prediction.
    """

    def __init__(self, momentum: float = -0.5, norm: float = 2.5, parallel: float = 0.0) -> None:
        self.momentum, self.norm, self.parallel = momentum, norm, parallel
        self._running: Tensor | None = None

    def __call__(self, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
        """Guided prediction of (B, …) ones."""
        difference = cond - uncond
        if self._running is not None:
            difference = difference + self.momentum * self._running
        self._running = difference
        across = tuple(range(1, cond.ndim))
        if self.norm > 0:
            length = torch.linalg.vector_norm(difference, dim=across, keepdim=True)
            difference = difference * (self.norm / length.clamp_min(1e-12)).clamp_max(1.0)
        length = torch.linalg.vector_norm(cond.double(), dim=across, keepdim=True)
        direction = cond.double() / length.clamp_min(1e-12)
        along = (difference.double() * direction).sum(across, keepdim=True) * direction
        kept = difference.double() - (1 - self.parallel) * along
        return cond + (scale - 1) * kept.to(cond.dtype)


def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """u + s (c − u)."""
    return uncond + scale * (cond - uncond)


def sample_flow(velocity: Velocity, noise: Tensor, sampling: FlowSampling) -> Tensor:
    """Data (B, …) from standard normal `noise` (B, …) by Euler steps, in float32.

    Args:
        velocity: the model; called once per step. It may batch both passes where `guided` asks for two.
    """
    projected = ProjectedGuidance(sampling.apg_momentum, sampling.apg_norm, sampling.apg_parallel)
    combine = projected if sampling.guidance == "apg" else guide

    def guided(x: Tensor, t: float) -> Tensor:
        scale = sampling.scale_at(t)
        made = velocity(x, t, scale != 1)
        v = made if isinstance(made, Tensor) else combine(made[0].float(), made[1].float(), scale)
        return v.float()

    return euler(guided, noise.float(), sampling.times)


def euler(velocity: Callable[[Tensor, float], Tensor], x: Tensor, times: Sequence[float]) -> Tensor:
    """Data from noise x (B, …) by Euler steps of dx = v dt at falling `times`, the last one to t = 0."""
    for t, after in pairwise([*times, 0.0]):
        x = x + (after - t) * velocity(x, t)
    return x


def even_times(num_inference_steps: int) -> list[float]:
    """The times of `euler`: evenly from 1, the last one a step before 0."""
    return torch.linspace(1.0, 0.0, num_inference_steps + 1, dtype=torch.float64)[:-1].tolist()


LAST_TIME = 0.04  # from here Euler–Maruyama goes to t = 0 in one step without noise, as SiT does


def maruyama_times(num_inference_steps: int) -> list[float]:
    """The times of `euler_maruyama`: evenly from 1 to 0.04."""
    return torch.linspace(1.0, LAST_TIME, num_inference_steps, dtype=torch.float64).tolist()


def euler_maruyama(
    velocity: Callable[[Tensor, float], Tensor],
    x: Tensor,
    times: Sequence[float],
    draw: Callable[[], Tensor],
) -> Tensor:
    """Data from noise x (B, …) by Euler–Maruyama steps of the reverse SDE with diffusion 2t (SiT, arXiv
    2401.08740).

    With the score s = (−(1 − t) v − x) / t the drift v − t s is (2 − t) v + x.

    Args:
        velocity: of (x, t).
        times: falling; the last step goes to t = 0 and adds no noise.
        draw: standard normal noise of x's shape, called before each step but the last.
    """
    for t, after in pairwise([*times, 0.0]):
        noise = draw() if after > 0 else None
        step = after - t
        x = x + step * ((2 - t) * velocity(x, t) + x)
        if noise is not None:
            x = x + math.sqrt(2 * t * -step) * noise
    return x


def flow_pair(x0: Tensor, noise: Tensor, sigma_B: Tensor) -> tuple[Tensor, Tensor]:
    """(x at sigma, target velocity) of data x0 (B, …): sigma·noise + (1 − sigma)·x0, and noise − x0."""
    sigma = sigma_B.view(-1, *[1] * (x0.ndim - 1))
    return sigma * noise + (1 - sigma) * x0, noise - x0


@dataclass(frozen=True)
class SigmaLaw:
    """How training draws sigma in [0, 1].

    Args:
        name: "logit_normal", sigmoid of a standard normal; "mode", see `mode_sigma`.
        mean: of the normal; above 0 means more noise ("logit_normal" only).
        stratified: one draw in each of B equal slices of the law ("logit_normal" only).
        mode_scale: of "mode"; 0 is uniform.
        high_share: this share of draws is uniform in [0.85, 1] instead. Nothing of the image is left there,
            so that the condition alone tells it: small models learn to use it far sooner.

    Raises:
        InputError: `stratified` with "mode", or a scale that makes sigma leave [0, 1].
    """

    name: Literal["logit_normal", "mode"] = "logit_normal"
    mean: float = 0.0
    stratified: bool = False
    mode_scale: float = 0.0
    high_share: float = 0.0

    def __post_init__(self) -> None:
        if self.stratified and self.name == "mode":
            raise InputError("stratified=True needs the law logit_normal")
        if not -1 <= self.mode_scale <= 2 / (math.pi - 2):  # beyond, the map is not monotone
            raise InputError(f"mode_scale={self.mode_scale} is out of range; use -1 to 1.75")
        if not 0 <= self.high_share <= 1:
            raise InputError(f"high_share={self.high_share} must be in [0, 1]")

    def draw(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Sigma (B,), float32 on the CPU."""
        sigma = self._draw(batch, generator)
        if not self.high_share:
            return sigma
        high = torch.rand(batch, generator=generator) < self.high_share
        return torch.where(high, 1 - 0.15 * torch.rand(batch, generator=generator), sigma)

    def _draw(self, batch: int, generator: torch.Generator | None) -> Tensor:
        if self.name == "mode":
            return mode_sigma(torch.rand(batch, generator=generator), self.mode_scale)
        if not self.stratified:
            return (torch.randn(batch, generator=generator) + self.mean).sigmoid()
        q = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        return (math.sqrt(2) * torch.erfinv(2 * q - 1) + self.mean).sigmoid()


def mode_sigma(u: Tensor, scale: float) -> Tensor:
    """SD3's mode sampling of uniform u (arXiv 2403.03206, section 3.1): 1 − u − s (cos²(π u / 2) − 1 + u)."""
    return 1 - u - scale * (torch.cos(math.pi / 2 * u).square() - 1 + u)
