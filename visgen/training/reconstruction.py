"""What objectives that train a tokenizer to give its images back have in common: losses on pixels, a GAN, and
how held-out images are scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from visgen.data.batch import Batch
from visgen.data.images import image_grid, to_pil
from visgen.errors import InputError
from visgen.nn.model import read_config
from visgen.pipelines.loading import load
from visgen.tokenizers import TOKENIZERS
from visgen.tokenizers.base import ImageTokenizer
from visgen.training.losses import (
    AdversarialLoss,
    PatchDiscriminator,
    PerceptualLoss,
    gradient_loss,
    object_weight,
    pixel_loss,
)
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe


@dataclass(frozen=True)
class PerceptualSpec:
    """LPIPS term: weights by path (see `PerceptualLoss`); nothing is downloaded."""

    weights_path: str
    linear_path: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class AdversarialSpec:
    """GAN term, see `AdversarialLoss`."""

    weight: float = 0.1
    start_step: int = 0
    warmup_steps: int = 0
    adaptive: bool = True
    hidden_size: int = 64
    num_layers: int = 3


@dataclass(frozen=True)
class ReconstructionOptions:
    """Weights and switches of a reconstruction.

    Args:
        gradient_weight: weight of the L1 between finite differences: edges.
        object_weight: weigh pixels that differ from their surroundings up to 5×.
        validation_batches: batches of 64 of the validation split, scored with the sample grids; 0 = none.
        perceptual, adversarial: further terms; None = without.
    """

    gradient_weight: float = 0.0
    object_weight: bool = False
    validation_batches: int = 0
    perceptual: PerceptualSpec | None = None
    adversarial: AdversarialSpec | None = None


class ReconstructionObjective(Objective):
    """Base of tokenizers' objectives: subclasses make reconstructions and add what their tokens cost.

    Args:
        model: what is trained.
        options: weights and switches.
        validation: a source of held-out images, or None.
    """

    frozen: ClassVar[tuple[str, ...]] = ("perceptual",)

    def __init__(self, model: Any, options: ReconstructionOptions, validation: Any = None) -> None:
        super().__init__()
        self.model, self.options, self.validation = model, options, validation
        lpips, gan = options.perceptual, options.adversarial
        self.perceptual = PerceptualLoss(lpips.weights_path, lpips.linear_path) if lpips else None
        self.gan = AdversarialLoss(**vars(gan)) if gan else None
        self._reconstructed: Tensor | None = None

    def reconstruction_terms(
        self, recon: Tensor, images: Tensor, last_layer: Tensor, step: int
    ) -> dict[str, Tensor]:
        """Scalars by name, "loss" being their weighted sum.

        Args:
            recon, images: (B, 3, H, W), float32, [-1, 1].
            last_layer: the last weight that is trained, for a GAN's adaptive weight.
            step: steps done before this one.
        """
        options = self.options
        weight = object_weight(images) if options.object_weight else None
        values = {
            "pixel": pixel_loss(recon, images, weight),
            "gradient": gradient_loss(recon, images),
            "psnr": psnr(recon.detach(), images),
        }
        total = values["pixel"] + options.gradient_weight * values["gradient"]
        if self.perceptual is not None and options.perceptual is not None:
            values["perceptual"] = self.perceptual(recon, images)
            total = total + options.perceptual.weight * values["perceptual"]
        if self.gan is not None:
            self._reconstructed = recon.detach()
            values |= self.gan.generator_term(recon, total, last_layer, step)
            total = total + values.get("adversarial", 0.0)
        return {"loss": total, **values}

    def adversary(self) -> PatchDiscriminator | None:
        return None if self.gan is None else self.gan.discriminator

    def adversary_loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor] | None:
        if self.gan is None or self._reconstructed is None:
            return None
        return self.gan.discriminator_term(to_pixels(batch.images), self._reconstructed, step)

    def samples(self, model: Any, batch: Batch) -> Image:
        """Images above their reconstructions, eight of each."""
        images = to_pixels(batch.images[:8])
        recon = model.decode(model.encode(images)).float()
        return image_grid(to_pil(images) + to_pil(recon), columns=len(images))

    def summary(self) -> dict[str, Any]:
        counts = {
            name: sum(p.numel() for p in part.parameters()) for name, part in self.model.named_children()
        }
        return {"parameters": sum(counts.values()), **{f"parameters_{k}": v for k, v in counts.items()}}


def load_tokenizer(name: str) -> ImageTokenizer:
    """A tokenizer's own folder, or the tokenizer of any model that `visgen.load` knows."""
    if (Path(name) / "config.json").is_file():
        return TOKENIZERS.load(read_config(Path(name)).get("_class_name", "")).from_pretrained(name)
    return load(name, task="reconstruct").tokenizer


def check_image_size(data: Any, model: Any) -> None:
    """Raise `InputError` for a data source of another size than the model's."""
    size = getattr(data, "image_size", model.pixel_size)
    if size != model.pixel_size:
        raise InputError(
            f"data.image_size={size} does not fit the model, which is for {model.pixel_size} pixels"
        )


def to_pixels(images: Tensor) -> Tensor:
    """uint8 images → float in [-1, 1]."""
    return images.float() / 127.5 - 1


def psnr(recon: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of a batch in dB, from the mean squared error over all of it."""
    error = ((recon.clamp(-1, 1) - images) / 2).square().mean()
    return -10 * torch.log10(error.clamp_min(1e-10))


def validation_source(recipe: Recipe, batches: int) -> Any:
    """The validation split of a recipe's data, or None when it is not asked for."""
    from visgen.training.stream import build_source

    data = {name: value for name, value in recipe.data.items() if name != "first"}  # the same for every stage
    return build_source({**data, "split": "validation"}) if batches else None


def validation_batches(source: Any, batches: int, batch_size: int = 64, first: int = 0) -> list[Batch]:
    """Images of a source from number `first` on, fewer where it is shorter."""
    length = getattr(source, "length", None)
    end = first + batches * batch_size if length is None else min(length, first + batches * batch_size)
    return [
        source.batch(range(start, min(start + batch_size, end))) for start in range(first, end, batch_size)
    ]
