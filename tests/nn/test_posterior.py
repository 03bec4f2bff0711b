"""Normal posteriors of latents."""

import torch

from visgen.nn.noise import Noise
from visgen.nn.posterior import Posterior

NORMAL = torch.distributions.Normal


def law(b=2, c=3, h=1, w=4):
    torch.manual_seed(0)
    return Posterior(torch.randn(b, c, h, w), torch.randn(b, c, h, w))


def test_divergence_from_the_standard_normal():
    """Of N(m, σ²): (m² + σ² − 1 − ln σ²) / 2, summed over channels, or over all of an image."""
    found = law()
    expected = torch.distributions.kl_divergence(NORMAL(found.mean, found.std), NORMAL(0.0, 1.0))
    assert torch.allclose(found.kl_per_position(), expected.sum(1), atol=1e-5)
    assert torch.allclose(found.kl(), expected.sum((1, 2, 3)), atol=1e-5)
    assert torch.equal(Posterior(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)).kl(), torch.zeros(1))


def test_log_variances_are_clamped_and_means_are_not():
    found = Posterior.of_moments(torch.tensor([50.0, -80.0, 50.0, -80.0]).view(1, 4, 1, 1))
    assert found.mean.flatten().tolist() == [50.0, -80.0]
    assert found.logvar.flatten().tolist() == [20.0, -30.0]


def test_draws_have_the_mean_and_deviation_of_the_law():
    found = law(1, 2, 1, 2)
    many = Posterior(found.mean.expand(20000, -1, -1, -1), found.logvar.expand(20000, -1, -1, -1))
    draws = many.sample(Noise.shared(0))
    assert torch.allclose(draws.mean(0), found.mean[0], atol=0.06)
    assert torch.allclose(draws.std(0), found.std[0], rtol=0.03)


def test_draws_are_those_of_each_image():
    found, noise = law(), [Noise.per_image([(7, k) for k in ks]) for ks in ((0, 1), (1,))]
    alone = Posterior(found.mean[1:], found.logvar[1:]).sample(noise[1])
    assert torch.equal(found.sample(noise[0])[1:], alone)
