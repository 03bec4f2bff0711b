"""Training of the multi-scale residual VQ tokenizer (VAR, arXiv 2404.02905, section 3.1 and appendix).

Reconstruction + quantizer loss, optionally perceptual (LPIPS) and adversarial terms. Codebook usage and perplexity
stand in every log line; codes that died are restarted from what is being quantised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from visgen.data.batch import Batch
from visgen.data.images import image_grid, to_pil
from visgen.errors import InputError
from visgen.nn.quantizers.codebook import code_counts, perplexity, restart_dead_codes, usage
from visgen.tokenizers.var import TokenizerPass, VARTokenizer
from visgen.training.losses import gradient_loss, object_weight, pixel_loss
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.schema import read

KEPT_VECTORS = 4096  # residual vectors kept from the last batch for restarts: enough rows for any codebook in use


@dataclass(frozen=True)
class TokenizerOptions:
    """Weights and switches of the objective.

    Args:
        init: model folder to start from instead of random weights.
        quantizer_weight: weight of the codebook and commitment terms.
        gradient_weight: weight of the L1 between finite differences: edges.
        object_weight: weigh pixels that differ from their surroundings up to 5×.
        continuous_steps: first steps without quantising, so that latents spread before codes are placed.
        joint_gradient: let the reconstruction reach codebook and φ too; False is the paper's straight-through.
        decoder_only: keep encoder, quantizer and so all tokens as they are.
        restart_every: steps between restarts of dead codes, 0 = never; `restart_until` is a fraction of the run.
        restart_margin: a code used less than this times uniform is dead.
    """

    init: str | None = None
    quantizer_weight: float = 1.0
    gradient_weight: float = 0.0
    object_weight: bool = False
    continuous_steps: int = 0
    joint_gradient: bool = True
    decoder_only: bool = False
    restart_every: int = 20
    restart_until: float = 0.75
    restart_margin: float = 0.03


class MultiscaleTokenizerObjective(Objective):
    """Reconstruct images through the multi-scale quantizer.

    Args:
        model: what is trained.
        options: weights and switches.
        steps: length of the run, for `restart_until`.
    """

    def __init__(self, model: VARTokenizer, options: TokenizerOptions, steps: int) -> None:
        super().__init__()
        self.model, self.options, self.steps = model, options, steps
        size, channels = model.config.codebook_size, model.config.latent_channels
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("vectors", torch.zeros(0, channels), persistent=False)
        if options.decoder_only:
            for module in (model.encoder, model.quant_conv, model.vq):
                module.requires_grad_(False)


    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> MultiscaleTokenizerObjective:
        options = read(TokenizerOptions, recipe.options, "options")
        if options.init:
            model = VARTokenizer.from_pretrained(options.init)
        else:
            model = VARTokenizer(**{k: tuple(v) if isinstance(v, list) else v for k, v in recipe.model.items()})
        size = getattr(data, "image_size", model.pixel_size)
        if size != model.pixel_size:
            raise InputError(f"data of {size} pixels does not fit a tokenizer of {model.pixel_size}; change image_size")
        return cls(model, options, recipe.steps)

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        options, images = self.options, batch.images.float() / 127.5 - 1
        quantize = step >= options.continuous_steps
        out = self.model(images, quantize=quantize, joint=options.joint_gradient)
        recon = out.reconstruction.float()
        values = self._reconstruction(recon, images)
        total = values["pixel"] + options.gradient_weight * values.get("gradient", 0.0)
        if out.quantization is not None:
            values["quantizer"] = out.quantization.loss
            total = total + options.quantizer_weight * out.quantization.loss
            self._observe(out)
        return {"loss": total, **values}

    def _reconstruction(self, recon: Tensor, images: Tensor) -> dict[str, Tensor]:
        weight = object_weight(images) if self.options.object_weight else None
        values = {"pixel": pixel_loss(recon, images, weight)}
        if self.options.gradient_weight:
            values["gradient"] = gradient_loss(recon, images)
        error = ((recon.detach().clamp(-1, 1) - images) / 2).square().mean()
        values["psnr"] = -10 * torch.log10(error.clamp_min(1e-10))
        return values

    @torch.no_grad()
    def _observe(self, out: TokenizerPass) -> None:
        """Count codes (moving average over about 100 steps) and keep some of the vectors that were quantised."""
        assert out.quantization is not None
        counts = code_counts(out.quantization.ids, len(self.counts))
        self.counts.mul_(0.99).add_(counts, alpha=0.01 * len(self.counts) / counts.sum())
        self.vectors = out.quantization.residuals[-KEPT_VECTORS:].detach()

    def after_step(self, step: int) -> dict[str, float | Tensor]:
        """Restart dead codes, and say how the codebook does."""
        options = self.options
        done = step + 1 - options.continuous_steps
        values: dict[str, float | Tensor] = {
            "codebook_usage": usage(self.counts, options.restart_margin),
            "codebook_perplexity": perplexity(self.counts),
        }
        due = options.restart_every and done > 0 and done % options.restart_every == 0
        if due and not options.decoder_only and step < options.restart_until * self.steps and len(self.vectors):
            generator = torch.Generator().manual_seed(step)
            weight = self.model.vq.embedding.weight.data
            margin = options.restart_margin
            values["codes_restarted"] = float(
                restart_dead_codes(weight, self.counts, self.vectors, generator, margin)
            )
        return values

    def samples(self, model: VARTokenizer, batch: Batch) -> Image:
        """Images above their reconstructions, eight of each."""
        images = batch.images[:8].float() / 127.5 - 1
        recon = model.decode(model.encode(images)).float()
        return image_grid(to_pil(images) + to_pil(recon), columns=len(images))

    def evaluate(self, model: VARTokenizer, step: int) -> dict[str, float]:
        return {}

    def summary(self) -> dict[str, Any]:
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in self.model.named_children()}
        return {"parameters": sum(counts.values()), **{f"parameters_{k}": v for k, v in counts.items()}}

    def export(self, folder: Path, model: VARTokenizer) -> None:
        model.save_pretrained(folder)
