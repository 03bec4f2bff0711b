"""Training of VQ tokenizers: of VAR's scales (arXiv 2404.02905) and of one grid (LlamaGen, 2406.06525).

Reconstruction + quantizer loss, optionally perceptual (LPIPS) and adversarial terms. Codebook usage and
perplexity stand in every log line; codes that died are restarted from what is being quantised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.nn.quantizers.codebook import code_counts, perplexity
from visgen.schema import read
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.convolutional import ConvTokenizer
from visgen.tokenizers.var import VARTokenizer
from visgen.tokenizers.vq import VQTokenizer
from visgen.training.codebook_care import CodebookCare
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


@dataclass(frozen=True)
class TokenizerOptions(ReconstructionOptions):
    """Weights and switches of the objective, beside those of `ReconstructionOptions`.

    Args:
        init: model folder to start from instead of random weights; of the recipe's model section, only
            `decoder_sizes` may then differ, and such a decoder starts from random weights.
        init_cnn: tokenizer folder or model whose encoder and decoder layers to start from, where they fit.
        quantizer_weight: weight of the codebook and commitment terms.
        continuous_steps: first steps without quantising, so that latents spread before codes are placed.
        joint_gradient: let the reconstruction reach codebook and φ too; False is the paper's
            straight-through.
        decoder_only: keep encoder, quantizer and so all tokens as they are.
        restart_every: steps between restarts of dead codes, 0 = never; `restart_until` is a fraction of the
            run.
        restart_margin: a code used less than this times uniform is dead.
    """

    init: str | None = None
    init_cnn: str | None = None
    quantizer_weight: float = 1.0
    continuous_steps: int = 0
    joint_gradient: bool = True
    decoder_only: bool = False
    restart_every: int = 20
    restart_until: float = 0.75
    restart_margin: float = 0.03


class TokenizerObjective(ReconstructionObjective):
    """Reconstruct images through a quantizer; subclasses name the tokenizer's class.

    Args:
        model: what is trained.
        options: weights and switches.
        steps: length of the run, for `restart_until`.
        validation: a source of held-out images, or None.
    """

    options: TokenizerOptions
    family: ClassVar[type[ConvTokenizer]]

    def __init__(
        self, model: ConvTokenizer, options: TokenizerOptions, steps: int, validation: Any = None
    ) -> None:
        super().__init__(model, options, validation)
        self.care = CodebookCare(model.codebook, options, steps)
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
        check_image_size(data, model)
        return cls(model, options, recipe.steps, validation_source(recipe, options.validation_batches))

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        options, images = self.options, to_pixels(batch.images)
        quantize = step >= options.continuous_steps
        out = self.model(images, quantize=quantize, joint=options.joint_gradient)
        recon, last_layer = out.reconstruction.float(), self.model.decoder.conv_out.weight
        values = self.reconstruction_terms(recon, images, last_layer, step)
        if out.quantization is not None:
            values["quantizer"] = out.quantization.loss
            values["loss"] = values["loss"] + options.quantizer_weight * out.quantization.loss
            self.care.observe(out.quantization.residuals, out.quantization.ids)
        return values

    def after_step(self, step: int) -> dict[str, float | Tensor]:
        """Restart dead codes, and say how the codebook does."""
        codebook, frozen = self.model.vq.embedding.weight.data, self.options.decoder_only
        return self.care.after_step(codebook, step, frozen=frozen)

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


class MultiscaleTokenizerObjective(TokenizerObjective):
    """Training of a `VARTokenizer`."""

    family = VARTokenizer


class VQTokenizerObjective(TokenizerObjective):
    """Training of a `VQTokenizer`."""

    family = VQTokenizer


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
