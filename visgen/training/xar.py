"""Training of xAR (arXiv 2502.20388, section 3): all entities of an image are noisy, each at a level of its
own, and one pass predicts their velocities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from visgen.data.batch import Batch
from visgen.errors import InputError, shown
from visgen.generators.xar import XARGenerator
from visgen.nn.building import construct
from visgen.nn.flow import SigmaLaw
from visgen.nn.noise import Noise, image_seed
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.tokens import Grid, ImageTokens
from visgen.training.generator import GeneratorObjective, GeneratorOptions, load_generator
from visgen.training.recipe import Recipe
from visgen.training.tokenizer import to_pixels, validation_batches

MOST_GROUPS = 8  # of entities whose validation losses are told apart


@dataclass(frozen=True)
class XAROptions(GeneratorOptions):
    """As `GeneratorOptions`, and:

    Args:
        time: law of the noise level, drawn for each entity of each image by itself; the official one is
            `SigmaLaw`'s default. A `high_share` teaches the condition sooner.
        context_noise: an entity sees the noisy ones before it (noisy context learning, the paper's way);
            False: the clean ones, at twice the work.
        sample_steps: `num_inference_steps` of sample grids and adherence images; None = as in `sampling`.
    """

    time: SigmaLaw = field(default_factory=SigmaLaw)
    context_noise: bool = True
    sample_steps: int | None = None


class XARObjective(GeneratorObjective):
    """Mean squared error of the velocities of a frozen tokenizer's latents, drawn from its posterior anew at
    each step."""

    takes_tokens: ClassVar[bool] = False  # a folder of tokens holds one draw of latents, not their law
    options: XAROptions
    options_class: ClassVar[type[GeneratorOptions]] = XAROptions

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        if (steps := self.options.sample_steps) is not None:
            self.sampling = replace(self.sampling, num_inference_steps=steps)

    @classmethod
    def tokenizer_config(cls, tokenizer: ImageTokenizer) -> dict[str, Any]:
        layout = tokenizer.layout
        channels = getattr(tokenizer.config, "latent_channels", None)  # type: ignore[attr-defined]
        if not isinstance(layout, Grid) or tokenizer.codebook is not None or channels is None:
            raise InputError(
                f"options.tokenizer is a {type(tokenizer).__name__}; xAR needs latents on a grid, such as "
                "those of a KLTokenizer"
            )
        return {"grid": (layout.h, layout.w), "latent_channels": channels}

    @classmethod
    def build_model(cls, recipe: Recipe, options: GeneratorOptions, config: dict[str, Any]) -> XARGenerator:
        if not options.init:
            return construct(XARGenerator, config, "model")
        model = load_generator(options.init, XARGenerator)
        own = {name: value for name, value in model.config.items() if not name.startswith("_")}
        wanted = construct(XARGenerator, own | config, "model").config
        for name, value in own.items():
            if wanted[name] != value:
                raise InputError(f"model.{name}={shown(wanted[name])} is {shown(value)} in options.init")
        return model

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(noise_seed)
        condition = self.dropped(batch, generator)
        tokens = self.latents(batch.images, noise_seed)
        law, context = self.options.time, self.options.context_noise
        return self.model.loss(tokens, condition, noise=generator, law=law, context_noise=context)

    def latents(self, images: Tensor, seed: int) -> ImageTokens:
        """A draw from the tokenizer's posterior for uint8 `images` (B, 3, H, W), from a stream of its own.

        In full precision whatever the recipe's: latents that bfloat16 rounded teach the generator its errors.
        """
        noise = Noise.shared(image_seed(seed, 0, "posterior"))
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self.tokenizer.encode(to_pixels(images), noise=noise)

    def evaluate(self, model: XARGenerator, step: int) -> dict[str, float]:
        """Held-out loss under the official law of noise levels, in all and by entity, from the same draws
        every time, and adherence to held-out captions, as far as asked for."""
        scores = self._adherence(model) if self.options.adherence_scenes else {}
        if self.validation is None:
            return scores
        batches = validation_batches(self.validation, self.options.validation_batches)
        losses = [self._held_out(model, batch, k) for k, batch in enumerate(batches)]
        losses_L = torch.stack(losses).mean(dim=0)
        scores["loss"] = float(losses_L.mean())
        groups = entity_groups(model.entities.lengths)
        if len(groups) > 1:
            scores |= {f"loss_{name}": float(losses_L[place].mean()) for name, place in groups.items()}
        return scores

    def _held_out(self, model: XARGenerator, batch: Batch, seed: int) -> Tensor:
        """Squared error of each position (L,), the mean over a batch."""
        batch = replace(batch, images=batch.images.to(model.device))
        latents = self.latents(batch.images, seed).latents
        assert latents is not None
        generator, rows = torch.Generator().manual_seed(seed), len(latents)
        times = SigmaLaw().draw(rows * len(model.entities), generator).view(rows, -1)
        noise = torch.randn(rows, model.entities.length, latents.shape[2], generator=generator)
        context = {"context_noise": self.options.context_noise}
        draws = times.to(latents.device), noise.to(latents.device)
        _, losses_BL = model.flow_loss(latents, self.condition(batch), *draws, **context)
        return losses_BL.mean(dim=0)

    def no_decay(self, name: str, parameter: Tensor) -> bool:
        return name.endswith(("encoder_pos", "decoder_pos")) or super().no_decay(name, parameter)


def entity_groups(lengths: Sequence[int]) -> dict[str, slice]:
    """Name → positions of the entities of some lengths: "entity_0", …, or of many, `MOST_GROUPS` runs of
    them, "entities_0-7", …"""
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    bounds = torch.linspace(0, len(lengths), min(len(lengths), MOST_GROUPS) + 1).long().tolist()
    groups = {}
    for first, end in pairwise(bounds):
        name = f"entity_{first}" if end == first + 1 else f"entities_{first}-{end - 1}"
        groups[name] = slice(ends[first], ends[end])
    return groups
