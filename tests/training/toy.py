"""A tiny objective: a linear map learns to brighten pixels. Noise, a buffer and a matrix exercise the whole
loop."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from visgen.data.batch import Batch
from visgen.training import OBJECTIVES
from visgen.training.losses import PatchDiscriminator, discriminator_loss, generator_loss
from visgen.training.objective import Objective


class ToyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8)])
        self.head = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        return self.head(torch.relu(self.blocks[0](x)))

    def save_pretrained(self, folder) -> None:
        save_file(self.state_dict(), Path(folder) / "model.safetensors")


class ToyObjective(Objective):
    def __init__(self, nan_at: int | None = None, adversary: bool = False) -> None:
        super().__init__()
        self.model = ToyModel()
        self.nan_at = nan_at
        self.discriminator = PatchDiscriminator(hidden_size=8, num_layers=1) if adversary else None

    @classmethod
    def from_recipe(cls, recipe, data) -> ToyObjective:
        return cls(**recipe.options)

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, torch.Tensor]:
        x = batch.images.float()[..., :8, :8] / 127.5 - 1
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(noise_seed)) + 0.1 * torch.randn(
            x.shape
        )
        self.recon, self.real = self.model(x + 0.05 * noise), x
        loss = (self.recon - (0.5 * x + 0.3)).square().mean()
        if self.discriminator is not None:
            loss = loss + 0.1 * generator_loss(self.discriminator(self.recon))
        return {"loss": loss * (float("nan") if step == self.nan_at else 1.0), "mean": x.mean()}

    def adversary(self):
        return self.discriminator

    def adversary_loss(self, batch, step, noise_seed):
        if step < 2:
            return None
        return {
            "loss": discriminator_loss(self.discriminator(self.real), self.discriminator(self.recon.detach()))
        }

    def after_step(self, step: int) -> dict[str, float]:
        self.model.seen += 1
        return {"seen": self.model.seen}

    def samples(self, model, batch):
        from PIL import Image

        return Image.fromarray(batch.images[0].permute(1, 2, 0).numpy())

    def evaluate(self, model, step: int) -> dict[str, float]:
        return {"weight": float(model.head.weight.abs().mean())}


def register() -> None:
    """Add the toy to the registry, once."""
    if "toy" not in OBJECTIVES:
        OBJECTIVES.register("toy", f"{__name__}:ToyObjective")
