"""The law that a variational autoencoder gives for the latents of an image: normal, each value for itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from visgen.nn.noise import Noise

LOG_VARIANCES = (-30.0, 20.0)  # the range that log variances are clamped to (LDM)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Normal laws of continuous latents: mean and ln σ², each (B, C, h, w)."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def of_moments(cls, moments: Tensor) -> Posterior:
        """The laws of (B, 2C, h, w), means before log variances, which are clamped to `LOG_VARIANCES`."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(*LOG_VARIANCES))

    @property
    def std(self) -> Tensor:
        """Standard deviations (B, C, h, w)."""
        return (0.5 * self.logvar).exp()

    def kl_per_position(self) -> Tensor:
        """Kullback-Leibler divergence from N(0, 1) of each position, (B, h, w), in nats."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.sum(dim=1)

    def kl(self) -> Tensor:
        """The same of each image, (B,), in nats."""
        return self.kl_per_position().sum(dim=(1, 2))

    def sample(self, noise: Noise) -> Tensor:
        """A draw, (B, C, h, w)."""
        return self.at(noise.normal(*self.mean.shape, device=self.mean.device))

    def at(self, normal: Tensor) -> Tensor:
        """The latents at standard normal draws (B, C, h, w): mean + σ ε."""
        return self.mean + self.std * normal
