"""Training of `KLTokenizer`: reconstruction of draws from the posterior, and a little of its divergence from
N(0, 1) (LDM, arXiv 2112.10752).

The convolutions may be those of a trained `VQTokenizer`, frozen: then only the two 1×1 convolutions around
the latents learn, how much noise the decoder bears among it, and other models can share the frozen ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.nn.noise import Noise
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.schema import read
from visgen.tokenizers.kl import KLTokenizer
from visgen.tokenizers.kl_networks import ConvNetwork
from visgen.tokenizers.vq import VQTokenizer
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import (
    ReconstructionObjective,
    ReconstructionOptions,
    check_image_size,
    load_tokenizer,
    psnr,
    to_pixels,
    validation_batches,
    validation_source,
)

FIRST_LOGVAR = -4.0  # standard deviation 0.14 of latents of unit variance: seen by the decoder, not drowned


@dataclass(frozen=True)
class KLOptions(ReconstructionOptions):
    """Weights and switches of the objective, beside those of `ReconstructionOptions`.

    Args:
        kl_weight: nats that count as much as an absolute error of 1 in one channel of one pixel. The default
            is LDM's, whose losses are sums over an image; here both are divided by its number of values.
        init_cnn: model whose `VQTokenizer` gives the convolutions (network "conv"); means are its features at
            first. The recipe's model section must then leave network out.
        freeze_cnn: keep those convolutions as they are.
        validation_batches: 1 or more: the scaling factor is measured on them at the end.
        card: facts for the model card.
    """

    kl_weight: float = 1e-6
    init_cnn: str | None = None
    freeze_cnn: bool = False
    validation_batches: int = 4
    card: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.freeze_cnn and not self.init_cnn:
            raise InputError("options.freeze_cnn needs options.init_cnn: there is nothing trained to keep")
        if self.validation_batches < 1:
            raise InputError(
                f"options.validation_batches={self.validation_batches} must be 1 or more: the scaling factor "
                "of latents is measured on them"
            )
        if self.kl_weight < 0:
            raise InputError(f"options.kl_weight={self.kl_weight} must be 0 or more")


class KLObjective(ReconstructionObjective):
    """Reconstruct images from draws of their posterior.

    Args:
        model: what is trained.
        options: weights and switches.
        validation: a source of held-out images.
    """

    options: KLOptions

    def __init__(self, model: KLTokenizer, options: KLOptions, validation: Any) -> None:
        super().__init__(model, options, validation)
        if options.freeze_cnn:
            model.autoencoder.requires_grad_(False)

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> KLObjective:
        options = read(KLOptions, recipe.options, "options")
        if options.init_cnn:
            model = over_convolutions(options.init_cnn, recipe.model)
        else:
            model = construct(KLTokenizer, recipe.model, "model")
        check_image_size(data, model)
        return cls(model, options, validation_source(recipe, options.validation_batches))

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        images, options, model = to_pixels(batch.images), self.options, self.model
        h, w = (side // model.downsampling for side in images.shape[-2:])
        shape = (len(images), model.config.latent_channels, h, w)
        normal = Noise.shared(noise_seed).normal(*shape, device=images.device)
        out = model(images, normal, frozen=options.freeze_cnn)
        last_layer = model.post_quant_conv.weight if options.freeze_cnn else model.autoencoder.last_layer
        values = self.reconstruction_terms(out.reconstruction.float(), images, last_layer, step)
        kl = out.posterior.kl().mean()
        total = values["loss"] + options.kl_weight * kl / images[0].numel()
        return {**values, "loss": total, "kl": kl, "posterior_std": out.posterior.std.detach().mean()}

    @torch.no_grad()
    def evaluate(self, model: KLTokenizer, step: int) -> dict[str, float]:
        """On held-out images: PSNR from means and from draws, nats per image, and the deviations of means
        (over all images) and of posteriors (mean), before scaling."""
        scores, means = [], []
        for number, batch in enumerate(self._held_out()):
            images = to_pixels(batch.images.to(model.device))
            law = model.posterior(images)
            drawn = law.sample(_noise(number, len(images)))
            made = [model.decode_features(latents).float() for latents in (law.mean, drawn)]
            found = [*(psnr(one, images) for one in made), law.kl().mean(), law.std.mean()]
            scores.append(torch.stack(found))
            means.append(law.mean.flatten().cpu())
        names = ("psnr", "psnr_drawn", "kl", "posterior_std")
        told = dict(zip(names, torch.stack(scores).mean(0).tolist(), strict=True))
        return told | {"mean_std": float(torch.cat(means).std())}

    def export(self, folder: Path, model: KLTokenizer) -> None:
        """A pipeline that reconstructs; its scaling factor gives draws of held-out images unit variance."""
        model.register_to_config(scaling_factor=1 / latent_std(model, self._held_out()))
        ReconstructPipeline(model).save_pretrained(folder, card=self.options.card)

    def _held_out(self) -> list[Batch]:
        return validation_batches(self.validation, self.options.validation_batches)


@torch.no_grad()
def latent_std(model: KLTokenizer, batches: Sequence[Batch]) -> float:
    """Standard deviation of posterior draws of images, over all their values, before scaling."""
    drawn = [
        model.posterior(to_pixels(batch.images.to(model.device))).sample(_noise(number, len(batch.images)))
        for number, batch in enumerate(batches)
    ]
    return float(torch.cat([one.flatten() for one in drawn]).double().std())


def _noise(batch: int, rows: int) -> Noise:
    """The draws of the images of a held-out batch, always the same."""
    return Noise.per_image([(batch, row) for row in range(rows)])


def over_convolutions(name: str, config: dict[str, Any]) -> KLTokenizer:
    """A tokenizer over the convolutions of a trained `VQTokenizer`, whose features are the means.

    Raises:
        InputError: another tokenizer, or a configuration that does not fit.
    """
    if "network" in config:
        raise InputError("options.init_cnn gives the network; leave model.network out")
    base = load_tokenizer(name)
    if not isinstance(base, VQTokenizer):
        raise InputError(f"options.init_cnn={name!r} is a {type(base).__name__}; name a VQTokenizer")
    sizes = {k: v for k, v in base.config.items() if not k.startswith("_") and k != "codebook_size"}
    network = {"kind": "conv", **sizes}
    model = construct(KLTokenizer, {"image_size": base.pixel_size} | config | {"network": network}, "model")
    assert isinstance(model.autoencoder, ConvNetwork)
    model.autoencoder.take(base)
    keep_features(model)
    return model


@torch.no_grad()
def keep_features(model: KLTokenizer) -> None:
    """Let means be the encoder's features and the decoder take latents as they are, as far as channels go;
    variances start small, the same everywhere."""
    for layer in (model.quant_conv, model.post_quant_conv):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        channels = min(model.config.latent_channels, model.autoencoder.channels)
        layer.weight[:channels, :channels, 0, 0] = torch.eye(channels)
    if model.config.variational:
        model.quant_conv.bias[model.config.latent_channels :] = FIRST_LOGVAR
