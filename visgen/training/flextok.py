"""Training of FlexTok (arXiv 2502.13967): rectified flow from a random number of an image's first tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image
from torch import Tensor

from visgen.data.batch import Batch
from visgen.data.images import image_grid, to_pil
from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.nn.flow import FlowSampling, SigmaLaw
from visgen.nn.noise import Noise
from visgen.nn.quantizers.codebook import average_counts, perplexity
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.schema import read
from visgen.tokenizers.flextok import LISTED_CODES, FlexTokTokenizer
from visgen.tokenizers.tokens import ImageTokens, Sequence1D
from visgen.tokenizers.vq import VQTokenizer
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import (
    load_tokenizer,
    psnr,
    to_pixels,
    validation_batches,
    validation_source,
)
from visgen.training.spreading import spread_places

KeepMode = Literal["uniform", "pow2", "uniform_pow2"]


@dataclass(frozen=True)
class FlexTokOptions:
    """What FlexTok stands on, and how it is trained.

    Args:
        latents: model whose `VQTokenizer` gives the frozen autoencoder; its codes must have unit length.
        init: FlexTok folder or model to start from instead; `model` must agree with it where it says
            something.
        keep: how many tokens an image keeps: "pow2" (1, 2, 4 … R), "uniform" (1 … R), or "uniform_pow2"
            (uniform, rounded up to a power of two).
        full_share: share of groups that keep all tokens instead.
        groups: parts of a batch that keep a number of tokens each; their encoder and decoder skip the others.
        spread_registers: start each register, in encoder and decoder, from the position of another place of
            the grid instead of noise, so that the first ones do not all lie in one corner.
        null_probability: share of images trained without condition, for guidance.
        sigma: law of the share of noise.
        validation_batches: batches of 64 of the validation split, reconstructed from 1, 2, 4 … R tokens with
            the sample strips; 0 = none.
        sampling: fields of `FlowSampling` for strips and validation; None = the model's.
        card: facts for the model card: licence, recipe, parity, notes.
    """

    latents: str | None = None
    init: str | None = None
    keep: KeepMode = "pow2"
    full_share: float = 0.0
    groups: int = 4
    spread_registers: bool = False
    null_probability: float = 0.2
    sigma: SigmaLaw = field(default_factory=SigmaLaw)
    validation_batches: int = 0
    sampling: dict[str, Any] | None = None
    card: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.latents is None) == (self.init is None):
            raise InputError("options needs exactly one of latents and init, to take the autoencoder from")
        if self.groups < 1 or not 0 <= self.null_probability < 1 or not 0 <= self.full_share <= 1:
            raise InputError(
                f"groups={self.groups} must be 1 or more, full_share={self.full_share} in [0, 1] and "
                f"null_probability={self.null_probability} in [0, 1)"
            )


class FlexTokObjective(Objective):
    """Mean squared error of the velocity; the autoencoder is frozen, codes pass straight through.

    Args:
        model: what is trained.
        options: see `FlexTokOptions`.
        validation: a source of held-out images, or None.
    """

    def __init__(self, model: FlexTokTokenizer, options: FlexTokOptions, validation: Any = None) -> None:
        super().__init__()
        self.model, self.options, self.validation = model, options, validation
        self.sampling = read(FlowSampling, options.sampling, "options.sampling") if options.sampling else None
        codes = model.fsq.codebook_size
        self.register_buffer("counts", torch.ones(codes if codes <= LISTED_CODES else 0))

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> FlexTokObjective:
        options = read(FlexTokOptions, recipe.options, "options")
        if options.init:
            model = continued(options.init, recipe.model)
        else:
            model = over_latents(str(options.latents), recipe.model)
            if options.spread_registers:
                spread_registers(model)
        size = getattr(data, "image_size", model.pixel_size)
        if size != model.pixel_size:
            raise InputError(
                f"data.image_size={size} does not fit the model, which is for {model.pixel_size} pixels"
            )
        return cls(model, options, validation_source(recipe, options.validation_batches))

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        with torch.no_grad():
            latents = self.model.codec.encode(to_pixels(batch.images)).float()
        generator = torch.Generator().manual_seed(noise_seed)
        parts = latents.tensor_split(min(self.options.groups, len(latents)))
        passes = [self._pass(part, generator) for part in parts]
        losses = torch.cat([losses for losses, _ in passes])
        return {"loss": losses.mean()} | self._usage(torch.cat([ids.flatten() for _, ids in passes]))

    def _pass(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Losses (b,) and ids of a group of images that keep one number of tokens."""
        options, b, registers = self.options, len(latents), self.model.config.num_registers
        kept = keep_count(options.keep, registers, lambda n: int(torch.randint(n, (1,), generator=generator)))
        if torch.rand((), generator=generator) < options.full_share:
            kept = registers
        null = (torch.rand(b, generator=generator) < options.null_probability).to(latents.device)
        sigma = options.sigma.draw(b, generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        out = self.model(latents, noise, sigma, min(kept, registers), null)
        return out.losses, out.ids

    def _usage(self, ids: Tensor) -> dict[str, Tensor]:
        """Perplexity of the codes, over about 100 steps."""
        if not len(self.counts):
            return {}
        average_counts(self.counts, ids, decay=0.99)
        return {"codebook_perplexity": perplexity(self.counts)}

    def no_decay(self, name: str, parameter: Tensor) -> bool:
        return name.endswith("encoder.registers") or super().no_decay(name, parameter)

    def compile_loss(self) -> None:
        """The two transformers; numbers of tokens after the second one share a graph."""
        self.model.encoder.compile()
        self.model.decoder.compile()

    def samples(self, model: FlexTokTokenizer, batch: Batch) -> Image:
        """Eight images, and below them what 1, 2, 4 … R tokens keep of them."""
        images = to_pixels(batch.images[:8])
        rows = [to_pil(images)] + [to_pil(made) for _, made in self._prefixes(model, images)]
        return image_grid([picture for row in rows for picture in row], columns=len(images))

    def evaluate(self, model: FlexTokTokenizer, step: int) -> dict[str, float]:
        """PSNR on held-out images by number of tokens."""
        if self.validation is None:
            return {}
        batches = validation_batches(self.validation, self.options.validation_batches)
        scores: dict[str, float] = {}
        for batch in batches:
            images = to_pixels(batch.images.to(model.device))
            for length, made in self._prefixes(model, images):
                name = f"psnr_{length}"
                scores[name] = scores.get(name, 0.0) + float(psnr(made, images)) / len(batches)
        return scores

    def _prefixes(self, model: FlexTokTokenizer, images: Tensor) -> list[tuple[int, Tensor]]:
        """(k, reconstruction from k tokens) for k = 1, 2, 4 … R; an image's noise is that of its row."""
        ids, made = model.encode(images).ids, []
        assert ids is not None
        for length in prefix_lengths(ids.shape[1]):
            tokens = ImageTokens(Sequence1D(length), ids=ids[:, :length])
            noise = Noise.per_image([(0, row) for row in range(len(images))])
            made.append((length, model.decode(tokens, sampling=self.sampling, noise=noise).float()))
        return made

    def export(self, folder: Path, model: FlexTokTokenizer) -> None:
        """A pipeline folder that reconstructs."""
        ReconstructPipeline(model).save_pretrained(folder, card=self.options.card)

    def summary(self) -> dict[str, Any]:
        counts = {
            name: sum(p.numel() for p in part.parameters()) for name, part in self.model.named_children()
        }
        return {"parameters": sum(counts.values()), **{f"parameters_{k}": v for k, v in counts.items()}}


def keep_count(mode: KeepMode, registers: int, draw: Callable[[int], int]) -> int:
    """How many tokens to keep; `draw(n)` gives a uniform integer of 0 … n - 1.

    "uniform_pow2" may give more than there are registers, where their number is no power of two.
    """
    if mode == "pow2":
        return 2 ** draw(registers.bit_length())
    kept = 1 + draw(registers)
    return kept if mode == "uniform" else 1 << (kept - 1).bit_length()


def prefix_lengths(registers: int) -> list[int]:
    """1, 2, 4 … and `registers` itself."""
    return sorted({2**n for n in range(registers.bit_length())} | {registers})


@torch.no_grad()
def spread_registers(model: FlexTokTokenizer) -> None:
    """Give each register of encoder and decoder the position vector of one of R places of the grid, in random
    order: the first ones must not all lie in one corner.

    Raises:
        InputError: a decoder without learned positions of registers, or of another width.
    """
    count, side = model.config.num_registers, model.latent_size[1] // model.encoder.patches.patch
    table = model.decoder.register_positions
    patches = model.encoder.patches.positions(side, side)  # (side², D)
    if table is None or table.kind == "sincos" or table.pos_table.shape[2] != patches.shape[1]:
        raise InputError(
            "options.spread_registers needs a decoder as wide as the encoder, with learned register positions"
        )
    places = spread_places(patches.T.unflatten(1, (side, side)), count)[torch.randperm(count)]  # (R, D)
    model.encoder.registers.copy_(places)
    table.pos_table[0, 0].copy_(places.T)


def over_latents(name: str, config: dict[str, Any]) -> FlexTokTokenizer:
    """A FlexTok with random weights over the convolutions of a trained `VQTokenizer`.

    Raises:
        InputError: another tokenizer, or a configuration that does not fit.
    """
    base = load_tokenizer(name)
    if not isinstance(base, VQTokenizer):
        raise InputError(f"options.latents={name!r} is a {type(base).__name__}; name a VQTokenizer")
    own = {k: v for k, v in base.config.items() if not k.startswith("_") and k != "codebook_size"}
    latents = {"kind": "VQTokenizer", **own}
    model = construct(
        FlexTokTokenizer, {"image_size": base.pixel_size} | config | {"latents": latents}, "model"
    )
    model.codec.take(base)  # type: ignore[operator]
    return model


def continued(name: str, config: dict[str, Any]) -> FlexTokTokenizer:
    """A trained FlexTok; raises `InputError` where `config`, a recipe's section, says otherwise."""
    model = load_tokenizer(name)
    if not isinstance(model, FlexTokTokenizer):
        raise InputError(f"options.init={name!r} is a {type(model).__name__}, not a FlexTok")
    wanted = construct(
        FlexTokTokenizer, {k: v for k, v in model.config.items() if k[0] != "_"} | config, "model"
    )
    for key, value in wanted.config.items():
        if not key.startswith("_") and value != model.config[key]:
            raise InputError(f"model.{key} differs from that of options.init={name!r}; leave it out")
    return model
