"""Training of `FlowRenderer`: pictures of what a frozen SEED tokenizer keeps of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from visgen.data.batch import Batch
from visgen.data.images import image_grid, to_pil, to_uint8
from visgen.data.scenes import Scenes
from visgen.data.scenes.scene import Scene
from visgen.errors import InputError
from visgen.evaluation.scenes.adherence import evaluate_adherence
from visgen.nn.building import construct
from visgen.nn.flow import SigmaLaw
from visgen.nn.model import read_config, read_weights
from visgen.nn.noise import Noise
from visgen.schema import read
from visgen.tokenizers.flextok_blocks import sincos
from visgen.tokenizers.latents import VQCodec
from visgen.tokenizers.renderers.flow import FlowRenderer
from visgen.tokenizers.seed import SEEDTokenizer
from visgen.tokenizers.vq import VQTokenizer
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import load_tokenizer, to_pixels, validation_batches, validation_source
from visgen.training.spreading import spread_places

MEASURED = 256  # pictures that give the scale of embeddings


@dataclass(frozen=True)
class RendererOptions:
    """What the renderer stands on, and how it is trained.

    Args:
        tokenizer: `SEEDTokenizer` folder, or a model that has one; makes the embeddings, from ids.
        codec: the frozen autoencoder: a `VQTokenizer` folder or model that has one, or the folder of an
            `AutoencoderKL`.
        init: `FlowRenderer` folder to go on from.
        condition_dropout: fraction of rows trained without their embedding, for guidance.
        sigma: law of the share of noise.
        spread_condition: start the latents from the sine-cosine positions of their grid, and each part of the
            embedding from that of another place: parts that stand for cells then begin beside them.
        validation_batches: batches of 64 of the validation split, scored by loss; 0 = none.
        adherence_scenes: held-out scenes, all kinds equally often, that are tokenised, drawn again and judged
            by the shipped checker; 0 = none. Scenes data only.
    """

    tokenizer: str
    codec: str
    init: str | None = None
    condition_dropout: float = 0.1
    sigma: SigmaLaw = field(default_factory=lambda: SigmaLaw(stratified=True))
    spread_condition: bool = False
    validation_batches: int = 0
    adherence_scenes: int = 0


class SEEDRendererObjective(Objective):
    """Draw images from the embeddings of their ids.

    Args:
        model: what is trained; its autoencoder is frozen.
        tokenizer: frozen.
        options: see `RendererOptions`.
        validation: a source of held-out images, or None.

    Raises:
        InputError: parts of different sizes.
    """

    frozen: ClassVar[tuple[str, ...]] = ("tokenizer",)

    def __init__(
        self, model: FlowRenderer, tokenizer: SEEDTokenizer, options: RendererOptions, validation: Any = None
    ) -> None:
        super().__init__()
        own = (model.embedding_dim, model.pixel_size)
        wanted = (tokenizer.config.embedding_dim, tokenizer.pixel_size)
        if own != wanted:
            raise InputError(f"model has embedding_dim, image_size = {own}; the tokenizer has {wanted}")
        self.model, self.tokenizer = model, tokenizer
        self.options, self.validation = options, validation

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> SEEDRendererObjective:
        options = read(RendererOptions, recipe.options, "options")
        tokenizer = load_tokenizer(options.tokenizer)
        if not isinstance(tokenizer, SEEDTokenizer):
            raise InputError(f"options.tokenizer is a {type(tokenizer).__name__}, not a SEEDTokenizer")
        if options.init is not None:
            model = FlowRenderer.from_pretrained(options.init)
        else:
            model = cls._new_model(recipe, options, tokenizer, data)
        return cls(model, tokenizer, options, validation_source(recipe, options.validation_batches))

    @classmethod
    def _new_model(
        cls, recipe: Recipe, options: RendererOptions, tokenizer: SEEDTokenizer, data: Any
    ) -> FlowRenderer:
        codec, state = read_codec(options.codec)
        told = {
            "image_size": tokenizer.pixel_size,
            "embedding_dim": tokenizer.config.embedding_dim,
            "embedding_scale": embedding_scale(tokenizer, data),
            "codec": codec,
        }
        model = construct(FlowRenderer, told | recipe.model, "model")
        model.autoencoder.load_state_dict(state)
        if options.spread_condition:
            spread_condition(model)
        return model

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        images = to_pixels(batch.images)
        generator = torch.Generator().manual_seed(noise_seed)
        with torch.autocast(images.device.type, enabled=False):  # the ids that images have later
            embeddings = self.tokenizer.decode_embedding(self.tokenizer.encode(images))
        how = {"dropout": self.options.condition_dropout, "law": self.options.sigma}
        loss = self.model.loss(images, embeddings, **how, generator=generator)
        return {"loss": loss}

    def redrawn(self, model: FlowRenderer, images: Tensor, first: int = 0) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], tokenised and drawn again, each from its own noise."""
        noise = Noise.per_image([(0, first + k) for k in range(len(images))])
        with torch.autocast(images.device.type, enabled=False):
            embeddings = self.tokenizer.decode_embedding(self.tokenizer.encode(images))
            return model.render(embeddings, noise=noise).float()

    def samples(self, model: FlowRenderer, batch: Batch) -> Image:
        """Images above what is drawn of their ids, eight of each."""
        images = to_pixels(batch.images[:8])
        return image_grid(to_pil(images) + to_pil(self.redrawn(model, images)), columns=len(images))

    def evaluate(self, model: FlowRenderer, step: int) -> dict[str, float]:
        """Loss on held-out images, and the share of held-out scenes that are drawn again right."""
        scores = self._adherence(model) if self.options.adherence_scenes else {}
        if self.validation is None:
            return scores
        losses = []
        for batch in validation_batches(self.validation, self.options.validation_batches):
            images = to_pixels(batch.images.to(model.device))
            embeddings = self.tokenizer.decode_embedding(self.tokenizer.encode(images))
            generator = torch.Generator().manual_seed(0)
            losses.append(float(model.loss(images, embeddings, generator=generator)))
        return scores | {"loss": sum(losses) / len(losses)}

    def _adherence(self, model: FlowRenderer) -> dict[str, float]:
        source = Scenes("validation", self.options.adherence_scenes, balanced=True)
        scenes: list[Scene] = []
        pictures = []
        for start in range(0, source.length or 0, 32):
            batch = source.batch(range(start, min(start + 32, source.length or 0)))
            images = to_pixels(batch.images.to(model.device))
            pictures.append(to_uint8(self.redrawn(model, images, start)))
            scenes += batch.scenes or []
        pixels = torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2)
        report = evaluate_adherence(pixels, scenes)
        shares = {"adherence": report.overall}
        shares |= {f"adherence_{name}": share for name, share in (report.kinds | report.attributes).items()}
        return {name: share.value for name, share in shares.items()}

    def summary(self) -> dict[str, Any]:
        """Parameter counts; those of the frozen autoencoder apart."""
        frozen = sum(p.numel() for p in self.model.autoencoder.parameters())
        return super().summary() | {"parameters_codec": frozen}


@torch.no_grad()
def spread_condition(model: FlowRenderer) -> None:
    """Give latents the positions of their grid, and the embedding's parts places of it, row by row."""
    tokens, positions = model.embedding_tokens, model.pos_embed  # (1, n, C), (1, h · w, C)
    side = math.isqrt(positions.shape[1])
    table = 0.5 * sincos(positions.shape[-1], (side, side))[0]  # as large as the noise they are added to
    positions.copy_(table.flatten(1).T[None])
    tokens.bias.copy_(spread_places(table, tokens.bias.shape[1])[None])


@torch.no_grad()
def embedding_scale(tokenizer: SEEDTokenizer, data: Any) -> float:
    """1 / the standard deviation of the embeddings of a source's first pictures."""
    images = to_pixels(data.batch(range(MEASURED)).images)
    parts = [tokenizer.decode_embedding(tokenizer.encode(part)) for part in images.split(64)]
    return 1 / max(float(torch.cat(parts).float().std()), 1e-6)


def read_codec(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a frozen autoencoder, see `RendererOptions.codec`.

    Raises:
        InputError: neither a `VQTokenizer` nor an `AutoencoderKL`.
    """
    folder = Path(name)
    if (folder / "config.json").is_file() and read_config(folder).get("_class_name") == "AutoencoderKL":
        config = {k: v for k, v in read_config(folder).items() if not k.startswith("_")}
        return {"kind": "AutoencoderKL"} | config, {f"vae.{k}": t for k, t in read_weights(folder).items()}
    tokenizer = load_tokenizer(name)
    if not isinstance(tokenizer, VQTokenizer):
        raise InputError(f"options.codec={name!r} is a {type(tokenizer).__name__}, not a VQTokenizer")
    config = {k: v for k, v in tokenizer.config.items() if not k.startswith("_") and k != "codebook_size"}
    codec = VQCodec(**config)
    codec.take(tokenizer)
    return {"kind": "VQTokenizer"} | config, codec.state_dict()
