"""Training of drafters (EAGLE, arXiv 2401.15077; LANTERN, 2410.03355): guess a frozen generator's next hidden
state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from visgen.data.batch import Batch
from visgen.decoding.speculative import Speculative
from visgen.errors import InputError
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import Condition
from visgen.generators.drafter import Drafter, drafter_loss
from visgen.generators.drafter_session import visible_mask
from visgen.generators.next_token import StrategyRequest
from visgen.generators.raster import RasterTransformer
from visgen.nn.building import construct
from visgen.nn.noise import Noise
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.loading import load
from visgen.schema import read
from visgen.training.generator import condition_of
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import to_pixels, validation_batches, validation_source

LAW_WEIGHT = 0.1  # of the cross-entropy between laws, beside the regression of hidden states


@dataclass(frozen=True)
class DrafterOptions:
    """Whose drafter is trained, and how.

    Args:
        pipeline: a model with a next-token generator: folder, or a name that `visgen.load` knows.
        init: drafter folder to start from instead of random weights.
        condition_dropout: fraction of rows without their condition: guidance drafts for both.
        noise: width of uniform noise on the hidden states that come in, for sequences of 512 (0.2 as
            published; shorter ones get more: noise · 512 / length).
        law_weight: of the cross-entropy between the laws, beside the regression of hidden states.
        validation_batches: batches of the validation split scored with the sample grids, 0 = none.
        decode_images: images of validation captions drawn with the drafter, to count tokens per pass; 0 =
            none.
        card: facts for the model card; None = the pipeline's.
    """

    pipeline: str
    init: str | None = None
    condition_dropout: float = 0.1
    noise: float = 0.2
    law_weight: float = LAW_WEIGHT
    validation_batches: int = 0
    decode_images: int = 0
    card: dict[str, Any] | None = None


class DrafterObjective(Objective):
    """From the hidden state f_t and the token after it, guess f_{t+1}, at all positions of an image.

    Args:
        model: the drafter.
        pipe: tokenizer, generator and text that it is trained for; they stay as they are.
        options: see `DrafterOptions`.
        validation: a source with held-out images, or None.

    Raises:
        InputError: a generator that gives no hidden state per position.
    """

    frozen: ClassVar[tuple[str, ...]] = ("tokenizer", "generator")

    def __init__(
        self, model: Drafter, pipe: ImagePipeline, options: DrafterOptions, validation: Any = None
    ) -> None:
        super().__init__()
        self.model, self.pipe, self.options, self.validation = model, pipe, options, validation
        self.tokenizer, self.generator = pipe.tokenizer, _generator(pipe)
        self.text = getattr(pipe, "text", None)

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> DrafterObjective:
        options = read(DrafterOptions, recipe.options, "options")
        pipe = load(options.pipeline)
        size = pipe.tokenizer.pixel_size
        if getattr(data, "image_size", size) != size:
            raise InputError(
                f"image_size={data.image_size} does not fit options.pipeline, which draws {size} pixels"
            )
        if options.init:
            model = Drafter.from_pretrained(options.init)
        else:
            model = construct(Drafter, drafter_config(_generator(pipe)) | recipe.model, "model")
            model.init_weights()
        held_out = max(options.validation_batches, options.decode_images and 1)
        return cls(model, pipe, options, validation_source(recipe, held_out))

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        condition = condition_of(batch, self.text)
        generator = torch.Generator().manual_seed(noise_seed)
        rows = torch.rand(len(condition), generator=generator) < self.options.condition_dropout
        condition = condition.dropped(rows.to(batch.images.device))
        return self._loss(self.model, batch, condition, generator)

    def _loss(
        self, model: Drafter, batch: Batch, condition: Condition, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Scalars of a batch; noise on the hidden states that come in when there is a generator."""
        target, prefix = self.generator, self.generator.prefix.length
        with torch.no_grad():
            ids = target.as_positions(self.tokenizer.encode(to_pixels(batch.images)))[:, :-1]
            hidden = target.tokens.features(target.hidden_states(condition, ids))[
                :, :, 0
            ]  # (B, P + L − 1, C)
            start = target.tokens.embed(torch.zeros_like(ids[:, :1])).expand(-1, prefix - 1, -1)
            embeddings = torch.cat([start, target.tokens.embed(ids)], dim=1)
            given = hidden[:, :-1]
            if generator is not None:
                given = given + self._noise(given, generator)
            mask = self._mask(condition, given.shape[1])
        found = model(embeddings.to(given.dtype), given, mask=mask)
        return drafter_loss(
            found[:, prefix - 1 :],
            hidden[:, prefix:],
            lambda states: target.tokens.logits(states[:, :, None]),
            law_weight=self.options.law_weight,
        )

    def _noise(self, hidden_BNC: Tensor, generator: torch.Generator) -> Tensor:
        width = self.options.noise * 512 / hidden_BNC.shape[1]
        return width * (torch.rand(hidden_BNC.shape, generator=generator).to(hidden_BNC) - 0.5)

    def _mask(self, condition: Condition, length: int) -> Tensor | None:
        """What inputs see: padding of the condition is hidden, as in a `DrafterSession`."""
        visible = self.generator.prefix(condition).visible
        if visible is None:
            return None
        return visible_mask(~visible[:, : self.generator.prefix.length - 1], length)[:, None]

    def evaluate(self, model: Drafter, step: int) -> dict[str, float]:
        """Loss and overlap of laws on held-out images; tokens per pass of decoding with the drafter."""
        if self.validation is None:
            return {}
        totals: dict[str, float] = {}
        batches = validation_batches(self.validation, self.options.validation_batches)
        for batch in batches:
            values = self._loss(model, batch, condition_of(batch, self.text), None)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + float(value) / len(batches)
        return totals | (self._decode(model) if self.options.decode_images else {})

    def _decode(self, model: Drafter) -> dict[str, float]:
        count = self.options.decode_images
        condition = condition_of(self.validation.batch(range(count)), self.text).to(self.generator.device)
        noise = Noise.per_image([(0, k) for k in range(count)])
        request = GenerationRequest(condition, self.pipe.sampling, noise)
        with torch.autocast(self.generator.device.type, enabled=False):
            result = self.generator.generate(request, strategy=StrategyRequest(Speculative(), drafter=model))
        return {"tokens_per_pass": result.stats["tokens_per_pass"]}

    def matrices(self, name: str, parameter: Tensor) -> bool:
        """Muon takes all weights of layers."""
        return parameter.ndim == 2 and ("layers." in name or name.endswith("fc.weight"))

    def export(self, folder: Path, model: Drafter) -> None:
        """The pipeline with its drafter, whose own folder is `drafter/`."""
        self.pipe.register_modules(drafter=model)
        self.pipe.save_pretrained(folder, card=self.options.card)


def drafter_config(target: RasterTransformer) -> dict[str, Any]:
    """Configuration of a drafter of one layer like those of its target."""
    config = target.config
    return {
        "hidden_size": config.hidden_size,
        "mlp_size": target.blocks[0].ffn.down.in_features,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads or config.num_heads,
        "norm_eps": config.norm_eps,
        "qk_norm": "rms" if config.qk_norm else "none",
        "rope_base": config.rope_base,
        "grid": target.positions,
        "prefix_length": target.prefix.length - 1,
        "prefix_rotation": config.prefix_rotation,
    }


def _generator(pipe: ImagePipeline) -> RasterTransformer:
    generator = getattr(pipe, "generator", None)
    if not isinstance(generator, RasterTransformer) or generator.config.window > 1:
        raise InputError(
            f"options.pipeline has a {type(generator).__name__}; drafters are trained for a "
            "RasterTransformer of window 1"
        )
    return generator
