"""Training of VQ tokenizers: of VAR's scales (arXiv 2404.02905) and of one grid (LlamaGen, 2406.06525).

Reconstruction + quantizer loss, optionally perceptual (LPIPS) and adversarial terms. Codebook usage and
perplexity stand in every log line; codes that died are restarted from what is being quantised.
"""

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
from visgen.nn.building import construct
from visgen.nn.model import read_config
from visgen.nn.quantizers.codebook import code_counts, perplexity
from visgen.pipelines.loading import load
from visgen.schema import read
from visgen.tokenizers import TOKENIZERS
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.convolutional import ConvTokenizer
from visgen.tokenizers.var import VARTokenizer
from visgen.tokenizers.vq import VQTokenizer
from visgen.training.codebook_care import CodebookCare
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
class TokenizerOptions:
    """Weights and switches of the objective.

    Args:
        init: model folder to start from instead of random weights; of the recipe's model section, only
            `decoder_sizes` may then differ, and such a decoder starts from random weights.
        init_cnn: tokenizer folder or model whose encoder and decoder layers to start from, where they fit.
        quantizer_weight: weight of the codebook and commitment terms.
        gradient_weight: weight of the L1 between finite differences: edges.
        object_weight: weigh pixels that differ from their surroundings up to 5×.
        continuous_steps: first steps without quantising, so that latents spread before codes are placed.
        joint_gradient: let the reconstruction reach codebook and φ too; False is the paper's
            straight-through.
        decoder_only: keep encoder, quantizer and so all tokens as they are.
        restart_every: steps between restarts of dead codes, 0 = never; `restart_until` is a fraction of the
            run.
        restart_margin: a code used less than this times uniform is dead.
        validation_batches: batches of 64 of the validation split, scored with the sample grids; 0 = none.
    """

    init: str | None = None
    init_cnn: str | None = None
    quantizer_weight: float = 1.0
    gradient_weight: float = 0.0
    object_weight: bool = False
    continuous_steps: int = 0
    joint_gradient: bool = True
    decoder_only: bool = False
    restart_every: int = 20
    restart_until: float = 0.75
    restart_margin: float = 0.03
    validation_batches: int = 0
    perceptual: PerceptualSpec | None = None
    adversarial: AdversarialSpec | None = None


class TokenizerObjective(Objective):
    """Reconstruct images through a quantizer; subclasses name the tokenizer's class.

    Args:
        model: what is trained.
        options: weights and switches.
        steps: length of the run, for `restart_until`.
        validation: a source of held-out images, or None.
    """

    frozen: ClassVar[tuple[str, ...]] = ("perceptual",)
    family: ClassVar[type[ConvTokenizer]]

    def __init__(
        self, model: ConvTokenizer, options: TokenizerOptions, steps: int, validation: Any = None
    ) -> None:
        super().__init__()
        self.model, self.options, self.validation = model, options, validation
        self.care = CodebookCare(model.codebook, options, steps)
        lpips, gan = options.perceptual, options.adversarial
        self.perceptual = PerceptualLoss(lpips.weights_path, lpips.linear_path) if lpips else None
        self.gan = AdversarialLoss(**vars(gan)) if gan else None
        self._reconstructed: Tensor | None = None
        if options.decoder_only:
            for module in (model.encoder, model.quant_conv, model.vq):
                module.requires_grad_(False)

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> TokenizerObjective:
        options = read(TokenizerOptions, recipe.options, "options")
        if options.init:
            model = continued(cls.family, options.init, recipe.model)
        else:
            model = construct(cls.family, recipe.model, "model")
            if options.init_cnn:
                take_cnn(model, load_tokenizer(options.init_cnn))
        size = getattr(data, "image_size", model.pixel_size)
        if size != model.pixel_size:
            raise InputError(
                f"data.image_size={size} does not fit the model, which is for {model.pixel_size} pixels"
            )
        return cls(model, options, recipe.steps, validation_source(recipe, options.validation_batches))

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        options, images = self.options, to_pixels(batch.images)
        quantize = step >= options.continuous_steps
        out = self.model(images, quantize=quantize, joint=options.joint_gradient)
        recon = out.reconstruction.float()
        values = self._reconstruction(recon, images)
        total = values["pixel"] + options.gradient_weight * values["gradient"]
        if self.perceptual is not None and options.perceptual is not None:
            values["perceptual"] = self.perceptual(recon, images)
            total = total + options.perceptual.weight * values["perceptual"]
        if self.gan is not None:
            self._reconstructed = recon.detach()
            values |= self.gan.generator_term(recon, total, self.model.decoder.conv_out.weight, step)
            total = total + values.get("adversarial", 0.0)
        if out.quantization is not None:
            values["quantizer"] = out.quantization.loss
            total = total + options.quantizer_weight * out.quantization.loss
            self.care.observe(out.quantization.residuals, out.quantization.ids)
        return {"loss": total, **values}

    def _reconstruction(self, recon: Tensor, images: Tensor) -> dict[str, Tensor]:
        weight = object_weight(images) if self.options.object_weight else None
        return {
            "pixel": pixel_loss(recon, images, weight),
            "gradient": gradient_loss(recon, images),
            "psnr": psnr(recon.detach(), images),
        }

    def adversary(self) -> PatchDiscriminator | None:
        return None if self.gan is None else self.gan.discriminator

    def adversary_loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor] | None:
        if self.gan is None or self._reconstructed is None:
            return None
        return self.gan.discriminator_term(to_pixels(batch.images), self._reconstructed, step)

    def after_step(self, step: int) -> dict[str, float | Tensor]:
        """Restart dead codes, and say how the codebook does."""
        codebook, frozen = self.model.vq.embedding.weight.data, self.options.decoder_only
        return self.care.after_step(codebook, step, frozen=frozen)

    def samples(self, model: ConvTokenizer, batch: Batch) -> Image:
        """Images above their reconstructions, eight of each."""
        images = to_pixels(batch.images[:8])
        recon = model.decode(model.encode(images)).float()
        return image_grid(to_pil(images) + to_pil(recon), columns=len(images))

    def evaluate(self, model: ConvTokenizer, step: int) -> dict[str, float]:
        """PSNR, codebook usage and perplexity on held-out images."""
        if self.validation is None:
            return {}
        scores, counts = [], torch.zeros_like(self.care.counts)
        for batch in validation_batches(self.validation, self.options.validation_batches):
            images = to_pixels(batch.images.to(model.device))
            tokens = model.encode(images)
            scores.append(psnr(model.decode(tokens).float(), images))
            counts += code_counts(tokens.values, len(counts))
        used = float((counts > 0).float().mean())
        score = float(torch.stack(scores).mean())
        return {"psnr": score, "codebook_used": used, "codebook_perplexity": float(perplexity(counts))}

    def summary(self) -> dict[str, Any]:
        counts = {
            name: sum(p.numel() for p in part.parameters()) for name, part in self.model.named_children()
        }
        return {"parameters": sum(counts.values()), **{f"parameters_{k}": v for k, v in counts.items()}}


class MultiscaleTokenizerObjective(TokenizerObjective):
    """Training of a `VARTokenizer`."""

    family = VARTokenizer


class VQTokenizerObjective(TokenizerObjective):
    """Training of a `VQTokenizer`."""

    family = VQTokenizer


def load_tokenizer(name: str) -> ImageTokenizer:
    """A tokenizer's own folder, or the tokenizer of any model that `visgen.load` knows."""
    if (Path(name) / "config.json").is_file():
        return TOKENIZERS.load(read_config(Path(name)).get("_class_name", "")).from_pretrained(name)
    return load(name, task="reconstruct").tokenizer


def take_cnn(model: ConvTokenizer, other: ImageTokenizer) -> None:
    """Copy the weights of another tokenizer's encoder and decoder into those of `model`, layer by layer,
    where name and shape agree.

    Raises:
        InputError: none does.
    """
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in other.state_dict().items()  # type: ignore[attr-defined]
        if name.startswith(("encoder.", "decoder.")) and name in own and own[name].shape == tensor.shape
    }
    if not fitting:
        raise InputError("options.init_cnn: no layer of that tokenizer has the shape of one of the model's")
    model.load_state_dict(fitting, strict=False)


def continued(family: type[ConvTokenizer], folder: str, model: dict[str, Any]) -> ConvTokenizer:
    """The tokenizer of a folder, with a new decoder where `model`, a recipe's section, describes another one.

    Raises:
        InputError: no such tokenizer, or `model` differs from it in something else.
    """
    old = family.from_pretrained(folder)
    wanted = construct(family, {**_config(old), **model}, "model")
    different = [name for name, value in _config(wanted).items() if value != old.config[name]]
    if not different:
        return old
    if different != ["decoder_sizes"]:
        raise InputError(f"model.{different[0]} differs from options.init={folder!r}; only decoder_sizes may")
    kept = {k: v for k, v in old.state_dict().items() if not k.startswith(("decoder.", "post_quant_conv."))}
    wanted.load_state_dict(kept, strict=False)
    return wanted


def _config(model: ConvTokenizer) -> dict[str, Any]:
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


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
