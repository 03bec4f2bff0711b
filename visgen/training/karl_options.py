"""Options of KARL's training, and the tokenizer that a recipe describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.tokenizers.flextok_blocks import sincos
from visgen.tokenizers.karl import KARLTokenizer
from visgen.tokenizers.karl_bases import VQBase
from visgen.tokenizers.vq import VQTokenizer
from visgen.training.reconstruction import AdversarialSpec, PerceptualSpec, load_tokenizer
from visgen.training.spreading import spread_places


@dataclass(frozen=True)
class KARLOptions:
    """Stage, weights and switches; the defaults are the paper's.

    Args:
        stage: "distill" predicts the frozen base's tokens; "finetune" trains all of it on pixels.
        base: a model whose `VQTokenizer` becomes the base, weights included (base.kind "vq"); beside `init`
            it takes the place of that model's base, of the same sizes.
        init: KARL model to start from; the recipe's model section must then be empty.
        freeze_base: leave the base as it is in "finetune" too, so that it can be shared with other models.
        spread_latents: start each of the `num_tokens` latents, in encoder and decoder, from the sine-cosine
            position of another place of the grid instead of noise, so that each begins with a region of its
            own, and the position tables from those positions.
        fan_in_init: start linear layers and convolutions with deviations of 1 / sqrt(fan-in) instead of the
            paper's 0.02, with which codes of a few channels are not heard beside positions.
        token_choices: counts T of the EIC pass, drawn uniformly.
        token_groups: parts of a batch that draw their own T; each costs a forward pass of its own.
        ltc_start: first step of the LTC pass (paper: 0); until tokens say something, errors tell no counts,
            and steps without it are cheaper.
        continuous_steps: first steps without quantising, so that vectors spread before codes are placed on
            them; a small model that quantises from the first step learns little more than mean colours.
        first_errors: bins up to this error are what EIC asks for at first.
        extend_ends: with the fewest tokens LTC also asks for larger errors than e, with all of them also for
            smaller ones: the count is known there too, and requests beyond what occurs are learnt.
        quantizer_weight, halt_weight: of the codebook terms and of the halting head's cross-entropy.
        gradient_weight: of the L1 between finite differences, in "finetune".
        restart_every, restart_until, restart_margin: of dead codes, as in `TokenizerOptions`; 0 = never.
        validation_batches: batches of 64 of the validation split, scored with the samples; 0 = none.
        validation_errors, validation_tokens: wanted errors and fixed counts that are scored.
        calibration_batches: batches of 64 of the validation split on which `bin_errors` are measured at the
            end; 0 = no calibration.
        calibration_share: of images that shall stay below the error they ask for.
        halt_threshold, default_error: of the exported model, before its calibration; None = the model's own.
        perceptual, adversarial: of "finetune"; the paper has LPIPS (VGG) and one discriminator per 32 tokens,
            we one for all.
        card: facts for the model card.
    """

    stage: Literal["distill", "finetune"] = "distill"
    base: str | None = None
    init: str | None = None
    freeze_base: bool = False
    spread_latents: bool = False
    fan_in_init: bool = False
    token_choices: tuple[int, ...] = tuple(range(16, 369, 16))
    token_groups: int = 1
    ltc_start: int = 0
    continuous_steps: int = 0
    first_errors: float = 0.04
    extend_ends: bool = False
    quantizer_weight: float = 1.0
    halt_weight: float = 1.0
    gradient_weight: float = 0.0
    restart_every: int = 0
    restart_until: float = 0.75
    restart_margin: float = 0.03
    validation_batches: int = 0
    validation_errors: tuple[float, ...] = (0.03, 0.05, 0.07)
    validation_tokens: tuple[int, ...] = ()
    calibration_batches: int = 0
    calibration_share: float = 0.9
    halt_threshold: float | None = None
    default_error: float | None = None
    perceptual: PerceptualSpec | None = None
    adversarial: AdversarialSpec | None = None
    card: dict[str, Any] | None = None


def build_model(options: KARLOptions, model: dict[str, Any]) -> KARLTokenizer:
    """The tokenizer that a recipe describes, from `options.init` or around `options.base`.

    Raises:
        InputError: sections that contradict each other, or do not fit.
    """
    if options.init:
        if model:
            raise InputError("options.init gives the model; leave the model section out")
        return _started(options)
    built = construct(KARLTokenizer, model, "model") if options.base is None else around_base(options, model)
    if options.fan_in_init:
        for name, weight in (*built.encoder.named_parameters(), *built.decoder.named_parameters()):
            if name.endswith("weight") and weight.ndim > 1:
                nn.init.trunc_normal_(weight, std=weight[0].numel() ** -0.5)
    if options.spread_latents:
        spread_latents(built)
    return built


def _started(options: KARLOptions) -> KARLTokenizer:
    """The model of `options.init`, with the base of `options.base` if there is one."""
    found = load_tokenizer(str(options.init))
    if not isinstance(found, KARLTokenizer):
        raise InputError(f"options.init={options.init!r} holds a {type(found).__name__}")
    if options.base is not None:
        if not isinstance(found.base_tokenizer, VQBase):
            raise InputError(
                f"options.base={options.base!r} beside options.init needs a model of base.kind vq"
            )
        found.base_tokenizer.take(_base(options))
    return found


def _base(options: KARLOptions) -> VQTokenizer:
    base = load_tokenizer(str(options.base))
    if not isinstance(base, VQTokenizer):
        raise InputError(f"options.base={options.base!r} holds a {type(base).__name__}, not a VQTokenizer")
    return base


def around_base(options: KARLOptions, model: dict[str, Any]) -> KARLTokenizer:
    """A tokenizer with random weights around the `VQTokenizer` of `options.base`."""
    base = _base(options)
    own = {name: value for name, value in base.config.items() if not name.startswith("_")}
    given = model.get("base", {"kind": "vq"})
    built = construct(KARLTokenizer, {**model, "base": {**own, **given}}, "model")
    if not isinstance(built.base_tokenizer, VQBase):
        raise InputError(f"model.base.kind={given.get('kind')!r} must be vq where options.base is given")
    built.base_tokenizer.take(base)
    return built


@torch.no_grad()
def spread_latents(model: KARLTokenizer) -> None:
    """Give the latents that inference uses, and the position tables, sine-cosine positions; the latents of
    encoder and decoder start from the same places."""
    count, order = model.config.num_tokens, None
    for part, latents in (
        (model.encoder, model.encoder.latents),
        (model.decoder, model.decoder.latent_positions),
    ):
        width, *sides = part.positions.shape
        table = 0.5 * sincos(width, tuple(sides))[0]  # as large as the patch features they are added to
        part.positions.copy_(table)
        places = spread_places(table, count)
        order = torch.randperm(count) if order is None else order
        latents[:count].copy_(places[order])


def check_options(options: KARLOptions, model: KARLTokenizer) -> None:
    """Raise `InputError` for options that do not fit the model or each other."""
    choices = options.token_choices
    if not choices or min(choices) < 1 or max(choices) > model.config.max_latents:
        raise InputError(f"options.token_choices={choices} must be 1 to {model.config.max_latents}")
    if options.token_groups < 1:
        raise InputError(f"options.token_groups={options.token_groups} must be 1 or more")
    if options.stage == "distill" and (options.perceptual or options.adversarial):
        raise InputError("options.perceptual and options.adversarial belong to stage finetune")
