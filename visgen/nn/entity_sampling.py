"""How latents are drawn entity by entity, each by a flow (xAR, arXiv 2502.20388)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visgen.errors import InputError, shown
from visgen.nn.guidance import guidance_at, step_position
from visgen.nn.sampling import LARGEST_GUIDANCE

FEWEST_STEPS = {"sde": 3, "ode": 1}


@dataclass(frozen=True)
class EntitySampling:
    """How a generator of entities is sampled.

    Args:
        num_inference_steps: passes of the network per entity; 3 or more for "sde", 1 or more for "ode".
        solver: "sde" (Euler–Maruyama, as published) or "ode" (Euler).
        guidance_scale: s in `u + s (c − u)`, at most 1e6 in size; 1 is off and costs no second half.
        guidance_schedule: over entities, a name of `visgen.nn.guidance.SCHEDULES`: "linear" is 1 at the first
            entity and s at the last, "constant" s throughout.
        float64: the solver computes in float64, as the official code does.

    Raises:
        InputError: a value out of range.
    """

    num_inference_steps: int = 50
    solver: Literal["sde", "ode"] = "sde"
    guidance_scale: float = 1.0
    guidance_schedule: str = "linear"
    float64: bool = False

    def __post_init__(self) -> None:
        if self.solver not in FEWEST_STEPS:
            raise InputError(f"solver={shown(self.solver)} must be sde or ode")
        steps, fewest = self.num_inference_steps, FEWEST_STEPS[self.solver]
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < fewest:
            raise InputError(
                f"num_inference_steps={shown(steps)} must be an integer of {fewest} or more for the solver "
                f"{self.solver}"
            )
        if not abs(self.guidance_scale) <= LARGEST_GUIDANCE:
            raise InputError(
                f"guidance_scale={self.guidance_scale} must be a finite number, at most {LARGEST_GUIDANCE:g} "
                "in size; 1 switches guidance off"
            )
        guidance_at(1.0, self.guidance_schedule, 0.0)  # raises on an unknown schedule

    def scales(self, entities: int) -> list[float]:
        """Guidance scale of each entity."""
        schedule = self.guidance_schedule
        positions = [step_position(schedule, index, entities) for index in range(entities)]
        return [guidance_at(self.guidance_scale, schedule, position) for position in positions]
