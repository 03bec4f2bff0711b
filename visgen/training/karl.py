"""Training of KARL (arXiv 2507.07995): estimate how complex an image is, then learn to tokenise at that.

Each step makes two passes over its images. EIC (estimate image complexity) uses T latents, all active, and
measures the error e of each image. LTC (learn to tokenise complexity) asks for that error of all latents and
teaches the halting head to keep the first T: an error that was reached tells its own best known count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from visgen.data.batch import Batch
from visgen.data.images import image_grid, to_pil
from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.schema import read
from visgen.tokenizers.karl import KARLCodes, KARLTokenizer, Seen
from visgen.training.codebook_care import CodebookCare
from visgen.training.karl_options import KARLOptions, build_model, check_options
from visgen.training.karl_scores import calibrate_errors, count_scores, mean_error
from visgen.training.losses import AdversarialLoss, PatchDiscriminator, PerceptualLoss, gradient_loss
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import to_pixels, validation_batches, validation_source

CALIBRATION_FIRST = 100_000  # of endless sources: no image that `visgen evaluate` scores


@dataclass(frozen=True, eq=False)
class KARLPass:
    """One of the two passes.

    Attributes:
        terms: losses by name; their sum is minimised, the halting and codebook ones weighted.
        errors: mean absolute error of each image on [0, 1] pixels (B,), or None where it was not asked for.
        reconstruction: images, or None likewise.
        codes: what the encoder said.
    """

    terms: dict[str, Tensor]
    errors: Tensor | None
    reconstruction: Tensor | None
    codes: KARLCodes


class KARLObjective(Objective):
    """Both passes of a stage.

    Args:
        model: what is trained.
        options: stage, weights and switches.
        steps: length of the run, for `restart_until`.
        validation: a source of held-out images, or None.

    Raises:
        InputError: token choices beyond the model's latents.
    """

    frozen: ClassVar[tuple[str, ...]] = ("perceptual",)

    def __init__(
        self, model: KARLTokenizer, options: KARLOptions, steps: int, validation: Any = None
    ) -> None:
        super().__init__()
        check_options(options, model)
        self.model, self.options, self.validation = model, options, validation
        self.distills = options.stage == "distill"
        model.base_tokenizer.requires_grad_(not (self.distills or options.freeze_base))
        bins = torch.tensor(model.config.error_bins)
        first = (bins <= options.first_errors) if options.first_errors >= bins[0] else bins == bins[0]
        self.register_buffer("bin_law", first / first.sum())  # of the errors that EIC asks for
        self.care = (
            None if model.codebook is None else CodebookCare(model.codebook, options, steps, decay=0.98)
        )
        lpips, gan = options.perceptual, options.adversarial
        self.perceptual = PerceptualLoss(lpips.weights_path, lpips.linear_path) if lpips else None
        self.gan = AdversarialLoss(**vars(gan)) if gan else None
        self._reconstructed: Tensor | None = None
        self._lowest: Tensor | None = None

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> KARLObjective:
        options = read(KARLOptions, recipe.options, "options")
        model = build_model(options, recipe.model)
        size = getattr(data, "image_size", model.pixel_size)
        if size != model.pixel_size:
            raise InputError(f"data.image_size={size} does not fit the model, for {model.pixel_size} pixels")
        held_out = max(options.validation_batches, options.calibration_batches)
        return cls(model, options, recipe.steps, validation_source(recipe, held_out))

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        images, draws = to_pixels(batch.images), torch.Generator().manual_seed(noise_seed)
        learns, quantize = step >= self.options.ltc_start, step >= self.options.continuous_steps
        seen = self.model.see(images, Noise(shared=draws))
        measure = learns or not self.distills
        passes, tokens_B = self._estimate(seen, images, draws, measure=measure, quantize=quantize)
        values = {f"eic_{k}": torch.stack([p.terms[k] for p in passes]).mean() for k in passes[0].terms}
        seen_values: dict[str, Tensor] = {}
        if learns:
            errors = torch.cat([part.errors for part in passes if part.errors is not None])
            bins = self._ltc_bins(errors, tokens_B, draws)
            ltc = self.learn_complexity(seen, images, bins, tokens_B, quantize=quantize)
            values |= {f"ltc_{name}": term for name, term in ltc.terms.items()}
            counts = ltc.codes.active.sum(-1).float().mean()
            seen_values = {"eic_error": errors.mean(), "active": counts}
            passes, self._lowest = [*passes, ltc], errors.min()
        self._observe([part.codes for part in passes])
        total = torch.stack([self._weighted(name, term) for name, term in values.items()]).sum()
        if not self.distills:
            recon = torch.cat([part.reconstruction for part in passes if part.reconstruction is not None])
            extra = self._picture_terms(recon, images.repeat(len(recon) // len(images), 1, 1, 1), total, step)
            values |= extra
            total = total + sum(v for k, v in extra.items() if k != "adversarial_weight")
        return {"loss": total, **values, **seen_values}

    def draw_bins(self, rows: int, draws: torch.Generator) -> Tensor:
        """The errors that EIC asks for, one bin per image."""
        return torch.multinomial(self.bin_law.cpu(), rows, replacement=True, generator=draws)

    def _estimate(
        self, seen: Seen, images: Tensor, draws: torch.Generator, **how: bool
    ) -> tuple[list[KARLPass], Tensor]:
        """EIC on each group of rows, and the T of each row."""
        bins_B = self.draw_bins(len(images), draws).to(images.device)
        groups = min(self.options.token_groups, len(images))
        choices = self.options.token_choices
        passes, tokens = [], []
        for rows in torch.arange(len(images)).tensor_split(groups):
            count = choices[int(torch.randint(len(choices), (), generator=draws))]
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            passes.append(self.estimate_complexity(seen[part], images[part], bins_B[part], count, **how))
            tokens += [count] * len(rows)
        return passes, torch.tensor(tokens, device=images.device)

    def estimate_complexity(
        self,
        seen: Seen,
        images: Tensor,
        bins_B: Tensor,
        num_tokens: int,
        *,
        measure: bool = True,
        quantize: bool = True,
    ) -> KARLPass:
        """The EIC pass: `num_tokens` latents, none halted, and the error they reach if it is measured."""
        out, predicted = self.model(seen, bins_B, num_tokens, halting=False, quantize=quantize)
        halt = out.halt_logits.float()
        terms = {"halt": F.binary_cross_entropy_with_logits(halt, torch.zeros_like(halt))}
        recon = errors = None
        if measure:
            with torch.set_grad_enabled(not self.distills):
                recon = self.model.base_tokenizer.decode(predicted, seen.grid).float()
            errors = mean_error(recon, images)
        terms |= self._reconstruction_terms(seen, predicted, errors, recon, images) | _codebook(out)
        return KARLPass(terms, None if errors is None else errors.detach(), recon, out)

    def learn_complexity(
        self,
        seen: Seen,
        images: Tensor,
        bins_B: Tensor,
        tokens_B: Tensor,
        num_tokens: int | None = None,
        *,
        quantize: bool = True,
    ) -> KARLPass:
        """The LTC pass: all latents (or `num_tokens`), decoded from those that the head keeps; it should keep
        the first `tokens_B`."""
        length = self.model.config.num_tokens if num_tokens is None else num_tokens
        out, predicted = self.model(seen, bins_B, length, halting=True, quantize=quantize)
        goes_on, halts = halting_losses(out.halt_logits, tokens_B)
        terms = {"halt": goes_on + halts}
        recon = errors = None
        if not self.distills:
            recon = self.model.base_tokenizer.decode(predicted, seen.grid).float()
            errors = mean_error(recon, images)
        terms |= self._reconstruction_terms(seen, predicted, errors, recon, images) | _codebook(out)
        return KARLPass(terms, errors, recon, out)

    def _reconstruction_terms(
        self, seen: Seen, predicted: Tensor, errors: Tensor | None, recon: Tensor | None, images: Tensor
    ) -> dict[str, Tensor]:
        if self.distills:
            return self.model.base_tokenizer.distillation(predicted, seen.features)
        assert errors is not None and recon is not None
        terms = {"pixel": errors.mean()}
        if self.options.gradient_weight:
            terms["gradient"] = gradient_loss(recon, images)
        return terms

    def _weighted(self, name: str, term: Tensor) -> Tensor:
        options = self.options
        weights = {
            "halt": options.halt_weight,
            "quantizer": options.quantizer_weight,
            "gradient": options.gradient_weight,
        }
        return weights.get(name.split("_", 1)[1], 1.0) * term

    def _picture_terms(self, recon: Tensor, images: Tensor, total: Tensor, step: int) -> dict[str, Tensor]:
        """Weighted perceptual and adversarial terms of both passes' pictures."""
        values: dict[str, Tensor] = {}
        if self.perceptual is not None and self.options.perceptual is not None:
            values["perceptual"] = self.options.perceptual.weight * self.perceptual(recon, images)
            total = total + values["perceptual"]
        if self.gan is not None:
            self._reconstructed = recon.detach()
            values |= self.gan.generator_term(recon, total, self.model.base_tokenizer.last_layer, step)
        return values

    def _ltc_bins(self, errors_B: Tensor, tokens_B: Tensor, draws: torch.Generator) -> Tensor:
        """Bins that LTC asks for: of the measured errors, or beyond them at the ends (`extend_ends`)."""
        bins = self.model.bins(errors_B)
        if not self.options.extend_ends:
            return bins
        last, where = len(self.bin_law) - 1, torch.rand(len(bins), generator=draws).to(bins.device)
        above = bins + (where * (last - bins + 1)).long()
        below = (where * (bins + 1)).long()
        bins = torch.where(tokens_B <= min(self.options.token_choices), above, bins)
        return torch.where(tokens_B >= self.model.config.num_tokens, below, bins)

    def adversary(self) -> PatchDiscriminator | None:
        return None if self.gan is None else self.gan.discriminator

    def adversary_loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor] | None:
        if self.gan is None or self._reconstructed is None:
            return None
        images, fake = to_pixels(batch.images), self._reconstructed
        return self.gan.discriminator_term(images.repeat(len(fake) // len(images), 1, 1, 1), fake, step)

    @torch.no_grad()
    def _observe(self, passes: Sequence[KARLCodes]) -> None:
        """Show the codebook's care what was quantised, or will be."""
        if self.care is None:
            return
        found = [out.quantization for out in passes if out.quantization is not None]
        if found:
            ids = torch.cat([out.ids.flatten() for out in found])
            self.care.observe(torch.cat([out.residuals for out in found]), ids)
        else:
            self.care.observe(torch.cat([out.codes.flatten(0, 1) for out in passes]))

    def after_step(self, step: int) -> dict[str, float | Tensor]:
        """Ask less for errors that all images exceed, and restart dead codes."""
        if self._lowest is not None:
            self.bin_law.copy_(updated_bin_law(self.bin_law, self.model.config.error_bins, self._lowest))
        if self.care is None or self.model.vq is None:
            return {}
        return self.care.after_step(self.model.vq.embedding.weight.data, step)

    def samples(self, model: KARLTokenizer, batch: Batch) -> Image:
        """Eight images above their reconstructions at each of `validation_errors`."""
        images = to_pixels(batch.images[:8])
        found = model.encode_errors(images, self.options.validation_errors)
        rows = [to_pil(model.decode(tokens).float()) for tokens in found]
        return image_grid(sum(rows, to_pil(images)), columns=len(images))

    def evaluate(self, model: KARLTokenizer, step: int) -> dict[str, float]:
        """Counts and errors on held-out images, see `count_scores`."""
        if self.validation is None or not self.options.validation_batches:
            return {}
        batches = validation_batches(self.validation, self.options.validation_batches)
        return count_scores(model, batches, self.options.validation_errors, self.options.validation_tokens)

    def export(self, folder: Path, model: KARLTokenizer) -> None:
        """A reconstruction pipeline, its errors calibrated where `calibration_batches` ask for it."""
        chosen = {name: getattr(self.options, name) for name in ("halt_threshold", "default_error")}
        model.register_to_config(**{name: value for name, value in chosen.items() if value is not None})
        if self.options.calibration_batches:
            first = 0 if getattr(self.validation, "length", None) else CALIBRATION_FIRST
            held_out = validation_batches(self.validation, self.options.calibration_batches, first=first)
            images = torch.cat([batch.images for batch in held_out])
            model.register_to_config(
                bin_errors=calibrate_errors(model, to_pixels(images), self.options.calibration_share)
            )
        ReconstructPipeline(model).save_pretrained(folder, card=self.options.card)

    def summary(self) -> dict[str, Any]:
        counts = {
            name: sum(p.numel() for p in part.parameters()) for name, part in self.model.named_children()
        }
        return {"parameters": sum(counts.values()), **{f"parameters_{k}": v for k, v in counts.items()}}


def halting_losses(logits_BT: Tensor, tokens_B: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies of halting: the first `tokens_B` latents of a row go on, the others halt.

    Each side is a mean of its own, so that few of one kind weigh as much as many of the other.
    """
    after = torch.arange(logits_BT.shape[1], device=tokens_B.device) >= tokens_B[:, None]
    each = F.binary_cross_entropy_with_logits(logits_BT.float(), after.float(), reduction="none")
    goes_on, halts = ((each * side).sum(-1) / side.sum(-1).clamp_min(1) for side in (~after, after))
    return goes_on.mean(), halts.mean()


def updated_bin_law(law: Tensor, error_bins: Sequence[float], lowest: Tensor) -> Tensor:
    """Law of the bins that EIC asks for: those from the lowest error of a batch on lose 1 %."""
    reached = torch.tensor(error_bins, dtype=law.dtype, device=law.device) >= lowest.to(law.device)
    law = torch.where(reached, law * 0.99, law)
    return law / law.sum()


def _codebook(out: KARLCodes) -> dict[str, Tensor]:
    return {} if out.quantization is None else {"quantizer": out.quantization.loss}
