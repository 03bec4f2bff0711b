"""KARL: base tokenizers, encoder, halting, codes, decoder, error bins, and both training passes."""

from __future__ import annotations

import re
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.report import Golden
from visgen.checkpoints import from_official
from visgen.checkpoints.karl import convert
from visgen.nn.noise import Noise
from visgen.tokenizers.karl import KARLTokenizer, Seen
from visgen.tokenizers.karl_bases import VAEBase, VQGANBase
from visgen.tokenizers.karl_network import pair_mask
from visgen.training.karl import KARLObjective, KARLOptions, halting_losses, updated_bin_law

INPUTS = ("*.in.images", "*.in.vae_noise", "*.discretize.in")
NOT_OF_THE_MODEL = ("cases", "train_case", "seed")
Tensors = dict[str, Tensor]


class Variant:
    """One variant of the folder: its tensors, its model, and its own stage names."""

    def __init__(self, golden: Golden, name: str, meta: dict[str, Any]) -> None:
        weights, tensors = (file_of(golden, name, weights) for weights in (True, False))
        state = {key.removeprefix("weights."): t for key, t in load_file(weights).items()}
        config = {key: value for key, value in meta.items() if key not in NOT_OF_THE_MODEL}
        self.golden, self.name, self.meta = golden, name, meta
        self.io: Tensors = load_file(tensors)
        self.model: KARLTokenizer = from_official("karl", state, config)
        self.state = state

    def compare(self, stage: str, found: Tensor) -> None:
        """Compare where the folder holds that stage."""
        if stage in self.io:
            self.golden.compare(f"{self.name}.{stage}", found, self.io[stage])

    def noise(self) -> Noise | None:
        """The recorded draw of the posterior."""
        draw = self.io.get("in.vae_noise")
        return None if draw is None else Noise.replayed([draw])


def file_of(golden: Golden, variant: str, weights: bool) -> Any:
    """The path of a variant's file, whose pattern stands in `meta.json`."""
    names = [name.replace("<variant>", variant) for name in golden.meta["files"]]
    return golden.folder / next(n for n in names if n.startswith(variant) and ("weights" in n) == weights)


def check(golden: Golden) -> None:
    """Every variant of the folder."""
    for name, meta in golden.meta["variants"].items():
        variant = Variant(golden, name, meta)
        check_bins(variant)
        for number, image in enumerate(variant.io["in.images"]):
            check_base(variant, number, 2 * image[None] - 1)
            for case in meta["cases"]:
                check_case(variant, f"img{number}.case{case['case']}", 2 * image[None] - 1, case)
        if "train_case" in meta:
            check_training(variant, meta["train_case"])
        golden.finish([f"{name}.{stage}" for stage in variant.io], INPUTS)


def check_bins(variant: Variant) -> None:
    """The bin of each error."""
    if "discretize.in" in variant.io:
        bins = variant.model.bins(variant.io["discretize.in"])
        variant.compare("discretize.bin_value", torch.tensor(variant.model.config.error_bins)[bins])


@torch.no_grad()
def check_base(variant: Variant, number: int, image: Tensor) -> None:
    """The base tokenizer alone."""
    base, stage = variant.model.base_tokenizer, f"img{number}"
    if isinstance(base, VQGANBase):
        z = base.features(image)
        codes = base.quantize.embed(base.ids(z)).transpose(1, 2).reshape(z.shape)
        variant.compare(f"{stage}.base_z", z)
        variant.compare(f"{stage}.base_recon", (base.decode_features(codes) + 1) / 2)
    if isinstance(base, VAEBase):
        posterior = base.vae.encode((image + 1) / 2).latent_dist
        variant.compare(f"{stage}.vae_mean", posterior.mean)
        variant.compare(f"{stage}.vae_logvar", posterior.logvar)
        variant.compare(f"{stage}.vae_recon_of_mean", base.vae.decode(posterior.mean).sample)


@torch.no_grad()
def check_case(variant: Variant, stage: str, image: Tensor, case: dict[str, Any]) -> None:
    """One budget and wanted error of one image, through `encode` and `decode`."""
    model, count = variant.model, case["input_token_budget"]
    error = float(case["desired_reconstruction_quality"])
    tokens = model.encode(image, num_tokens=count, max_error=error, noise=variant.noise())
    variant.compare(f"{stage}.halted", ~tokens.mask)
    variant.compare(f"{stage}.active_count", tokens.lengths.int())
    if tokens.ids is not None:
        variant.compare(f"{stage}.indices", tokens.ids)
    seen = model.see(image, variant.noise())
    recon = (model.decode(tokens, grid=seen.grid) + 1) / 2
    variant.compare(f"{stage}.recon", recon)
    variant.compare(f"{stage}.l1", (recon - (image + 1) / 2).abs().mean())
    check_encoder(variant, stage, seen, torch.tensor([error]), count)
    dense = model.decoder.dense(model.embed_tokens(tokens), seen.grid, tokens.mask)
    variant.compare(f"{stage}.dec_out", dense)
    compact = model.predict(model.embed_tokens(tokens), seen.grid, tokens.mask)
    variant.golden.compare(f"{variant.name}.{stage}.compact", compact, dense)
    masked = (~pair_mask(tokens.mask, dense.shape[1])).sum(-1)
    variant.compare(f"{stage}.attn_mask_true_per_row", masked.int())


def check_encoder(variant: Variant, stage: str, seen: Seen, error: Tensor, count: int) -> None:
    """What goes on inside of the encoder."""
    model = variant.model
    hidden = model.encoder.hidden(seen.tokens, seen.grid, model.wanted_bins(error), count)
    codes, halt = model.encoder.heads(hidden[:, -count:])
    variant.compare(f"{stage}.img_tokens", seen.tokens)
    variant.compare(f"{stage}.enc_out", hidden)
    variant.compare(f"{stage}.latent_pre_quant", codes)
    variant.compare(f"{stage}.halt_logits", halt)
    variant.compare(f"{stage}.halt_prob", halt.sigmoid())
    out = model.tokenize(seen, model.wanted_bins(error), count)
    if out.quantization is not None:
        variant.compare(f"{stage}.latent_quant", out.codes)
        variant.compare(f"{stage}.quantizer_loss", out.quantization.loss)
    if isinstance(model.base_tokenizer, VQGANBase):
        variant.compare(f"{stage}.base_indices", model.base_tokenizer.ids(seen.features))


def check_training(variant: Variant, case: dict[str, Any]) -> None:
    """Stage 1 on one image: EIC, then LTC at the error it measured; losses, law of bins, gradients."""
    model, first, last = variant.model, case["eic_tokens"], case["ltc_tokens"]
    start, stop = map(int, re.findall(r"\d+", case["image"]))
    images = 2 * variant.io["in.images"][start:stop] - 1
    objective = KARLObjective(model, KARLOptions(token_choices=(first,)), steps=1)
    seen = model.see(images, variant.noise())
    eic = objective.estimate_complexity(seen, images, model.bins(torch.tensor([case["eic_epsilon"]])), first)
    assert eic.errors is not None
    bins, law = model.bins(eic.errors), objective.bin_law
    ltc = objective.learn_complexity(seen, images, bins, torch.tensor([first]), last)
    eic_total = torch.stack([*eic.terms.values()]).sum()
    total = eic_total + torch.stack([*ltc.terms.values()]).sum()
    variant.compare("train.eic_rec_l1", eic.errors.mean())
    variant.compare("train.ltc_bin_value", torch.tensor(model.config.error_bins)[bins])
    variant.compare("train.prob_before", law)
    variant.compare("train.prob_after", updated_bin_law(law, model.config.error_bins, eic.errors.min()))
    variant.compare("train.eic_total", eic_total)
    variant.compare("train.total", total)
    compare_log(variant, eic.terms, f"{first}_0", f"{first}")
    compare_log(variant, ltc.terms, f"{last}_1", f"{last}")
    goes_on, halts = halting_losses(ltc.codes.halt_logits, torch.tensor([first]))
    variant.compare(f"train.log.latent_token_active_loss_bce_{first}_0", eic.terms["halt"])
    variant.compare(f"train.log.latent_token_active_loss_bce_{last}", goes_on)
    variant.compare(f"train.log.latent_token_halt_loss_bce_{last}", halts)
    model.zero_grad()
    total.backward()
    for stage in [stage for stage in variant.io if stage.startswith("train.gradnorm.")]:
        official = stage.removeprefix("train.gradnorm.")
        variant.compare(stage, gradient(variant, official).norm())


def compare_log(variant: Variant, terms: Tensors, suffix: str, tokens: str) -> None:
    """Components of a pass's loss."""
    for official, ours in (("nll_loss", "nll"), ("code_loss", "code")):
        if ours in terms:
            variant.compare(f"train.log.{official}_{suffix}", terms[ours])
    if "quantizer" in terms:
        variant.compare(f"train.log.quantization_loss_{tokens}", terms["quantizer"])


def gradient(variant: Variant, official: str) -> Tensor:
    """The gradient of an official parameter, found by converting a state in which it alone is marked."""
    marked = {key: torch.full_like(t, float(key == official)) for key, t in variant.state.items()}
    ours = next(key for key, t in convert(marked).items() if t.any())
    found = variant.model.get_parameter(ours).grad
    assert found is not None
    return found
