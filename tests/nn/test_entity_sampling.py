"""Sampling entity by entity: guidance over entities, what is refused; solvers on laws with known flows."""

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.entity_sampling import EntitySampling
from visgen.nn.flow import euler, euler_maruyama, even_times, maruyama_times


def test_guidance_grows_over_entities():
    assert EntitySampling(guidance_scale=2.5).scales(4) == pytest.approx([1.0, 1.5, 2.0, 2.5])
    assert EntitySampling(guidance_scale=2.5, guidance_schedule="constant").scales(2) == [2.5, 2.5]
    assert EntitySampling(guidance_scale=2.5).scales(1) == [2.5]
    assert EntitySampling().scales(3) == [1.0] * 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_inference_steps": 2}, "num_inference_steps=2 must be an integer of 3"),
        ({"num_inference_steps": 0, "solver": "ode"}, "1 or more"),
        ({"num_inference_steps": 4.0}, "integer"),
        ({"num_inference_steps": True, "solver": "ode"}, "integer"),
        ({"solver": "heun"}, "sde or ode"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_schedule": "liner"}, "linear"),
    ],
)
def test_what_does_not_fit_is_refused(options, told):
    with pytest.raises(InputError, match=told):
        EntitySampling(**options)
    assert EntitySampling(1, "ode") and EntitySampling(3)


def test_times():
    assert maruyama_times(25)[::8] == pytest.approx([1.0, 0.68, 0.36, 0.04])
    assert even_times(4) == [1.0, 0.75, 0.5, 0.25]


def gaussian_velocity(mean, std):
    """v = E[noise − data | x] of data N(mean, std²), in closed form."""

    def velocity(x, t):
        variance = (1 - t) ** 2 * std**2 + t**2
        centred = (x - (1 - t) * mean) / variance
        return t * centred - (mean + (1 - t) * std**2 * centred)

    return velocity


@pytest.mark.parametrize("solver", ["ode", "sde"])
def test_solvers_reach_the_law(solver):
    generator = torch.Generator().manual_seed(0)
    velocity, n = gaussian_velocity(1.5, 0.5), 20000
    draw = lambda: torch.randn(n, dtype=torch.float64, generator=generator)  # noqa: E731
    if solver == "ode":
        x = euler(velocity, draw(), even_times(200))
    else:
        x = euler_maruyama(velocity, draw(), maruyama_times(200), draw)
    assert float(x.mean()) == pytest.approx(1.5, abs=0.02)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)


def test_maruyama_draws_before_each_pass_but_the_last():
    order = []

    def velocity(x, t):
        order.append("pass")
        return x

    def draw():
        order.append("draw")
        return torch.zeros(1)

    euler_maruyama(velocity, torch.ones(1), maruyama_times(3), draw)
    assert order == ["draw", "pass", "draw", "pass", "pass"]
