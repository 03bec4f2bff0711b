"""A patch discriminator with hinge losses, for the `adversary` hook of an objective.

PatchGAN (Isola et al. 2017), hinge loss and adaptive weight as in VQGAN (Esser et al. 2021).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of images (B, 3, H, W) in [-1, 1]: logits (B, 1, h, w), higher = more real.

    Args:
        hidden_size: channels of the first layer; each halving doubles them, up to 8 times.
        num_layers: halvings after the first; 3 sees patches of 70 pixels.
    """

    def __init__(self, hidden_size: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        widths = [hidden_size * min(2**i, 8) for i in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, num_layers + 1):
            stride = 2 if i < num_layers else 1
            norm = nn.GroupNorm(math.gcd(8, widths[i]), widths[i])  # batch-independent, unlike BatchNorm
            layers += [nn.Conv2d(widths[i - 1], widths[i], 4, stride, 1, bias=False), norm, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Minus the mean logit of reconstructions: lower = they pass for real."""
    return -fake_logits.float().mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss: real above 1, fake below -1."""
    return (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()) / 2


def adaptive_weight(
    base_loss: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4
) -> Tensor:
    """Ratio of the two losses' gradient norms at the decoder's last weight, in [0, largest], detached."""
    base = torch.autograd.grad(base_loss, last_layer, retain_graph=True)[0]
    other = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    return (base.norm() / (other.norm() + 1e-4)).clamp(0, largest).detach()


class AdversarialLoss(nn.Module):
    """What an objective needs of a GAN: hold it as a submodule and return it from `adversary()`.

    In `loss`: `values |= gan.generator_term(recon, base_loss, last_layer, step)` and add "adversarial" to
    "loss".
    In `adversary_loss`: `return gan.discriminator_term(images, recon.detach(), step)`.

    Args:
        weight: factor of the generator's term.
        start_step: first step of the term.
        warmup_steps: steps that the discriminator trains alone before it.
        adaptive: scale the term to the base loss's gradient at `last_layer`.
    """

    def __init__(
        self,
        weight: float = 0.1,
        start_step: int = 0,
        warmup_steps: int = 0,
        adaptive: bool = True,
        hidden_size: int = 64,
        num_layers: int = 3,
    ) -> None:
        super().__init__()
        self.weight, self.start_step, self.warmup_steps, self.adaptive = (
            weight,
            start_step,
            warmup_steps,
            adaptive,
        )
        self.discriminator = PatchDiscriminator(hidden_size, num_layers)

    def generator_term(
        self, recon: Tensor, base_loss: Tensor, last_layer: Tensor | None, step: int
    ) -> dict[str, Tensor]:
        """{"adversarial": weighted term to add, "adversarial_weight": its factor}; empty before
        `start_step`."""
        if step < self.start_step:
            return {}
        term = generator_loss(self.discriminator(recon))
        factor = torch.ones_like(base_loss)
        if self.adaptive and last_layer is not None:
            factor = adaptive_weight(base_loss, term, last_layer)
        return {"adversarial": self.weight * factor * term, "adversarial_weight": self.weight * factor}

    def discriminator_term(self, real: Tensor, fake: Tensor, step: int) -> dict[str, Tensor] | None:
        """The discriminator's hinge loss with its mean logits; None before it starts. `fake` must be
        detached."""
        if step < self.start_step - self.warmup_steps:
            return None
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        loss = discriminator_loss(real_logits, fake_logits)
        return {"loss": loss, "real": real_logits.float().mean(), "fake": fake_logits.float().mean()}
