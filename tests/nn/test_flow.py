"""Rectified flow: sampling, guidance, laws of sigma."""

import math

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.flow import (
    FlowSampling,
    ProjectedGuidance,
    SigmaLaw,
    flow_pair,
    guide,
    mode_sigma,
    sample_flow,
)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_a_straight_flow_ends_at_its_data(steps):
    noise, data = draws(2, 3, 4, 4), draws(2, 3, 4, 4, seed=1)
    made = sample_flow(lambda x, t, guided: noise - data, noise, FlowSampling(steps))
    torch.testing.assert_close(made, data, atol=1e-5, rtol=1e-5)


def test_the_model_is_asked_at_falling_times_and_guided_where_it_matters():
    asked = []

    def velocity(x, t, guided):
        asked.append((t, guided))
        return (x, x) if guided else x

    sample_flow(velocity, draws(1, 2), FlowSampling(4, 3.0, guidance_interval=(0.5, 0.8)))
    assert asked == [(1.0, False), (0.75, True), (0.5, True), (0.25, False)]
    asked.clear()
    sample_flow(velocity, draws(1, 2), FlowSampling(2))
    assert asked == [(1.0, False), (0.5, False)]


def test_guidance_is_u_plus_s_times_the_difference():
    noise, cond, uncond = draws(1, 5), draws(1, 5, seed=1), draws(1, 5, seed=2)
    made = sample_flow(lambda x, t, guided: (cond, uncond), noise, FlowSampling(1, 3.0))
    torch.testing.assert_close(made, noise - (uncond + 3 * (cond - uncond)))
    torch.testing.assert_close(guide(cond, uncond, 1.0), cond)


def test_the_linear_schedule_is_strongest_in_the_noise():
    sampling = FlowSampling(4, 3.0, guidance_schedule="linear")
    assert [sampling.scale_at(t) for t in sampling.times] == [3.0, 2.5, 2.0, 1.5]


def test_projected_guidance_adds_across_the_prediction_alone():
    cond, uncond = draws(3, 2, 4, 4), draws(3, 2, 4, 4, seed=1)
    added = ProjectedGuidance(norm=0)(cond, uncond, 4.0) - cond
    along = (added * cond).flatten(1).sum(1)
    torch.testing.assert_close(along, torch.zeros(3), atol=1e-4, rtol=0)
    whole = ProjectedGuidance(norm=0, parallel=1.0)(cond, uncond, 4.0)
    torch.testing.assert_close(whole, cond + 3 * (cond - uncond))


def test_projected_guidance_is_limited_and_has_momentum():
    cond, uncond = 100 * draws(2, 8), torch.zeros(2, 8)
    uncond[:, 0] = 1e3
    once = ProjectedGuidance(norm=2.5)
    assert (once(cond, uncond, 2.0) - cond).norm(dim=1).max() <= 2.5 + 1e-3
    small = draws(2, 8) * 0.1
    run = ProjectedGuidance(norm=0, parallel=1.0)
    run(small, torch.zeros(2, 8), 2.0)
    torch.testing.assert_close(run(small, torch.zeros(2, 8), 2.0), small + 0.5 * small)  # d - d / 2


def test_projected_guidance_treats_images_by_themselves_and_takes_equal_predictions():
    cond, uncond = draws(3, 2, 4, 4), draws(3, 2, 4, 4, seed=1)
    together = ProjectedGuidance()(cond, uncond, 7.5)
    alone = torch.cat([ProjectedGuidance()(c[None], u[None], 7.5) for c, u in zip(cond, uncond, strict=True)])
    torch.testing.assert_close(together, alone)
    assert torch.equal(ProjectedGuidance()(cond, cond, 7.5), cond)
    zero = torch.zeros(1, 4)
    assert torch.equal(ProjectedGuidance()(zero, zero, 7.5), zero)


def test_pairs_lie_on_straight_lines():
    data, noise = draws(3, 2, 4, 4), draws(3, 2, 4, 4, seed=1)
    x, target = flow_pair(data, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(x[0], data[0]) and torch.equal(x[1], noise[1])
    torch.testing.assert_close(x - torch.tensor([0.0, 1.0, 0.25]).view(3, 1, 1, 1) * target, data)


@pytest.mark.parametrize(
    "law",
    [
        SigmaLaw(),
        SigmaLaw(mean=1.0),
        SigmaLaw(stratified=True),
        SigmaLaw("mode", mode_scale=0.25),
        SigmaLaw(high_share=0.5),
    ],
)
def test_laws_stay_in_range_and_repeat(law):
    first, again = (law.draw(4096, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again) and first.min() >= 0 and first.max() <= 1
    assert first.shape == (4096,) and first.dtype == torch.float32


def test_a_stratified_law_has_one_draw_per_slice():
    sigma = SigmaLaw(stratified=True).draw(64, torch.Generator().manual_seed(0))
    quantiles = torch.special.ndtr(torch.logit(sigma))
    assert torch.equal((quantiles * 64).floor().clamp_max(63), torch.arange(64.0))


def test_shares_of_noise_shift():
    generator = torch.Generator().manual_seed(0)
    assert SigmaLaw(mean=1.0).draw(4096, generator).mean() > 0.68
    high = SigmaLaw(high_share=0.5).draw(4096, generator)
    assert 0.5 < float((high >= 0.85).float().mean()) < 0.58  # 3 % of the normal law lie there too
    u = torch.linspace(0, 1, 11)
    assert torch.equal(mode_sigma(u, 0.0), 1 - u)
    assert bool((mode_sigma(u, 1.29).diff() < 0).all())


@pytest.mark.parametrize(
    "options",
    [
        {"num_inference_steps": 0},
        {"guidance_scale": -1.0},
        {"guidance_scale": math.nan},
        {"guidance": "none"},
        {"guidance_schedule": "cosine"},
        {"guidance_interval": (0.7, 0.3)},
        {"apg_momentum": 1.0},
        {"apg_norm": -2.0},
        {"apg_parallel": 2.0},
    ],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        FlowSampling(**options)


@pytest.mark.parametrize(
    "options",
    [{"name": "mode", "stratified": True}, {"name": "mode", "mode_scale": 3.0}, {"high_share": 1.5}],
)
def test_laws_that_leave_the_range_are_refused(options):
    with pytest.raises(InputError):
        SigmaLaw(**options)
