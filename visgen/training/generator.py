"""Training of generators on a frozen tokenizer's ids: next scale (VAR, arXiv 2404.02905, section 3.2) and
next token (LlamaGen, arXiv 2406.06525, section 2.2)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from visgen.data.batch import Batch
from visgen.data.images import image_grid, to_pil, to_uint8
from visgen.data.scenes import Scenes
from visgen.errors import InputError
from visgen.evaluation.scenes.adherence import evaluate_adherence
from visgen.generators.base import GenerationRequest
from visgen.generators.conditions import ClassCondition, Condition
from visgen.generators.raster import RasterTransformer
from visgen.generators.token_shuffle import shuffled
from visgen.generators.var import VARTransformer
from visgen.nn.building import construct
from visgen.nn.model import VisgenModel
from visgen.nn.noise import Noise
from visgen.pipelines.base import ImagePipeline
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.flow_decoding import DECODING, decoding_request
from visgen.pipelines.loading import load
from visgen.pipelines.model_index import read_index
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.text_features import TextFeatures
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.schema import convert, read
from visgen.shipped import assets_folder, shipped_models
from visgen.tokenizers.base import ImageTokenizer
from visgen.tokenizers.tokens import ImageTokens, Scales, Sequence1D
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import load_tokenizer, to_pixels, validation_batches, validation_source
from visgen.training.stream import to_device

ConditionKind = Literal["class", "prompt", "text"]
Model = TypeVar("Model", bound=VisgenModel)


@dataclass(frozen=True)
class GeneratorOptions:
    """What the generator stands on, and how it is trained.

    Args:
        tokenizer: model folder of a tokenizer, or a pipeline folder or shipped model that has one.
        init: generator folder, or model that has one, to start from instead of random weights. A next-token
            model of single tokens may become one of windows (`model.window`).
        gamma_init: initial scale of the residual gates (VAR: 1e-3 for d16 … 5e-6 for d36).
        condition_dropout: fraction of rows trained without their condition, for guidance.
        words: closed vocabulary of a word-conditional model; None = the words of the training captions.
        text_length: words per prompt.
        text_encoder: a transformers text encoder by name, for models conditioned on "text".
        sampling: default sampling of the exported pipeline, keywords of the generator's `sampling_family`
            (`TokenSampling`); used for the sample grids too.
        validation_batches: batches of the validation split scored with the sample grids, 0 = none.
        adherence_scenes: held-out scenes, all kinds equally often, drawn from their captions with the sample
            grids and judged by the shipped checker; 0 = none. Scenes data only.
        decoding: how sample grids and adherence images are decoded by tokenizers that start from noise,
            `FlowSampling` keywords that replace the tokenizer's own; few steps cost little.
        card: facts for the model card: licence, recipe, parity, notes.
    """

    tokenizer: str
    init: str | None = None
    gamma_init: float = 1e-3
    condition_dropout: float = 0.1
    words: list[str] | None = None
    text_length: int = 24
    text_encoder: str | None = None
    sampling: dict[str, Any] | None = None
    validation_batches: int = 0
    adherence_scenes: int = 0
    decoding: dict[str, Any] | None = None
    card: dict[str, Any] | None = None


class GeneratorObjective(Objective):
    """Predict a tokenizer's ids from a condition; subclasses build the generator.

    Args:
        model: the generator.
        tokenizer: an `ImageTokenizer`, frozen; makes ids of images.
        text: vocabulary or text encoder; None for class-conditional models.
        options: see `GeneratorOptions`.
        validation: a source with held-out images, or None.
    """

    frozen: ClassVar[tuple[str, ...]] = ("tokenizer",)
    takes_tokens: ClassVar[bool] = True
    options_class: ClassVar[type[GeneratorOptions]] = GeneratorOptions

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        text: WordVocabulary | TextFeatures | None,
        options: GeneratorOptions,
        validation: Any = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.text = model, tokenizer, text
        self.options, self.validation = options, validation
        self.sampling = read(type(model).sampling_family, options.sampling, "options.sampling")
        self.decoding = decoding_request(tokenizer, options.decoding)

    @classmethod
    @abstractmethod
    def build_model(cls, recipe: Recipe, options: GeneratorOptions, config: dict[str, Any]) -> Any:
        """The generator, of `options.init` or with random weights; `config` says what class, text and data
        determine of its configuration beyond `recipe.model`."""

    @classmethod
    @abstractmethod
    def tokenizer_config(cls, tokenizer: ImageTokenizer) -> dict[str, Any]:
        """What the tokenizer determines of the generator's configuration."""

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> GeneratorObjective:
        options = read(cls.options_class, recipe.options, "options")
        tokenizer = load_tokenizer(options.tokenizer)
        if getattr(data, "image_size", tokenizer.pixel_size) != tokenizer.pixel_size:
            raise InputError(
                f"image_size={data.image_size} does not fit the tokenizer of {tokenizer.pixel_size} pixels"
            )
        if getattr(data, "holds_tokens", False):
            data.check_made_by(tokenizer)
        kind = convert(recipe.model.get("condition", "class"), ConditionKind, "model.condition")
        text = _text(kind, options, data)
        config = _condition_config(kind, text, data, recipe.model) | cls.tokenizer_config(tokenizer)
        model = cls.build_model(recipe, options, config)
        return cls(model, tokenizer, text, options, validation_source(recipe, options.validation_batches))

    def condition(self, batch: Batch) -> Condition:
        """What the batch's images show."""
        return condition_of(batch, self.text)

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        tokens = self.tokens_of(batch)
        condition = self.dropped(batch, torch.Generator().manual_seed(noise_seed))
        return self.model.loss(tokens, condition, quantizer=self.tokenizer.quantizer)

    def tokens_of(self, batch: Batch) -> ImageTokens:
        """What the tokenizer makes of a batch's images, or made of them when the data was tokenized."""
        return self.tokenizer.encode(to_pixels(batch.images)) if batch.tokens is None else batch.tokens

    def dropped(self, batch: Batch, generator: torch.Generator) -> Condition:
        """What the batch's images show, for `condition_dropout` of them nothing."""
        condition = self.condition(batch)
        rows = torch.rand(len(condition), generator=generator) < self.options.condition_dropout
        return condition.dropped(rows.to(batch.images.device))

    def samples(self, model: Any, batch: Batch) -> Image:
        """Sixteen images of the batch's conditions, always from the same noise."""
        condition = self.condition(_first(batch, 16))
        with torch.autocast(batch.images.device.type, enabled=False):
            return image_grid(to_pil(self._generate(model, condition)), columns=8)

    def _generate(self, model: Any, condition: Condition, first: int = 0) -> Tensor:
        noise = Noise.per_image([(0, first + k) for k in range(len(condition))])
        request = GenerationRequest(condition, self.sampling, noise)
        result = model.generate(request, quantizer=self.tokenizer.quantizer)
        if result.latents is not None:
            return self.tokenizer.decode_latents(result.latents).float()
        if not self.tokenizer.starts_from_noise:
            return self.tokenizer.decode(result.tokens).float()
        noise = Noise.per_image([(0, first + k) for k in range(len(condition))], stream=DECODING)
        return self.tokenizer.decode(result.tokens, sampling=self.decoding, noise=noise).float()

    def evaluate(self, model: Any, step: int) -> dict[str, float]:
        """Loss and accuracy on held-out images, and adherence to held-out captions, as far as asked for."""
        totals: dict[str, float] = self._adherence(model) if self.options.adherence_scenes else {}
        if self.validation is None:
            return totals
        batches = validation_batches(self.validation, self.options.validation_batches)
        for batch in batches:
            batch = to_device(batch, model.device)
            values = model.loss(
                self.tokens_of(batch), self.condition(batch), quantizer=self.tokenizer.quantizer
            )
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + float(value) / len(batches)
        return totals

    def _adherence(self, model: Any) -> dict[str, float]:
        """Share of held-out captions drawn right, in all and by kind of scene."""
        source = Scenes("validation", self.options.adherence_scenes, balanced=True)
        scenes, images = [], []
        for start in range(0, source.length, 32):
            batch = source.batch(range(start, min(start + 32, source.length)))
            condition = self.condition(replace(batch, images=batch.images.to(model.device)))
            with torch.autocast(model.device.type, enabled=False):
                images.append(to_uint8(self._generate(model, condition, start)))
            scenes += batch.scenes
        pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2)
        report = evaluate_adherence(pixels, scenes)
        shares = {"adherence": report.overall} | {f"adherence_{k}": s for k, s in report.kinds.items()}
        return {name: share.value for name, share in shares.items()}

    def export(self, folder: Path, model: Any) -> None:
        """A whole pipeline: tokenizer (a reference to a shipped one), generator, text, default sampling."""
        parts: dict[str, Any] = {
            "tokenizer": self.tokenizer,
            "generator": model,
            "sampling": self.options.sampling,
        }
        if self.text is None:
            pipe: ImagePipeline = ClassToImagePipeline(**parts)
        else:
            pipe = TextToImagePipeline(**parts, text=self.text)
        reference = shipped_tokenizer(self.options.tokenizer)
        shared = {} if reference is None else {"tokenizer": reference}
        pipe.save_pretrained(folder, card=self.options.card, shared=shared)


class NextScaleObjective(GeneratorObjective):
    """Predict the ids of every scale from those before."""

    @classmethod
    def tokenizer_config(cls, tokenizer: ImageTokenizer) -> dict[str, Any]:
        assert tokenizer.codebook is not None
        size, channels = tokenizer.codebook.shape
        scales = tuple(h for h, _ in tokenizer.layout.sizes)  # type: ignore[union-attr]
        return {"scales": scales, "codebook_size": size, "latent_channels": channels}

    @classmethod
    def build_model(cls, recipe: Recipe, options: GeneratorOptions, config: dict[str, Any]) -> VARTransformer:
        if options.init:
            return VARTransformer.from_pretrained(options.init)
        model = construct(VARTransformer, config, "model")
        model.init_weights(options.gamma_init)
        return model


class NextTokenObjective(GeneratorObjective):
    """Predict the ids of every position, or window of positions, from those before."""

    @classmethod
    def tokenizer_config(cls, tokenizer: ImageTokenizer) -> dict[str, Any]:
        layout, codebook = tokenizer.layout, tokenizer.codebook
        if isinstance(layout, Scales):
            raise InputError(
                f"options.tokenizer has tokens of layout {layout}; next-token models need a grid or a "
                "sequence"
            )
        if codebook is None:
            raise InputError("options.tokenizer has no codebook; next-token models predict discrete tokens")
        if isinstance(layout, Sequence1D):
            return {"grid": None, "length": layout.n, "codebook_size": len(codebook)}
        return {"grid": (layout.h, layout.w), "codebook_size": len(codebook)}

    @classmethod
    def build_model(
        cls, recipe: Recipe, options: GeneratorOptions, config: dict[str, Any]
    ) -> RasterTransformer:
        if not options.init:
            return construct(RasterTransformer, config, "model")
        model = load_generator(options.init, RasterTransformer)
        window = config.get("window", 1)
        if window == model.config.window:
            return model
        return shuffled(model, window, config.get("shuffle_blocks", 2))


def condition_of(batch: Batch, text: WordVocabulary | TextFeatures | None) -> Condition:
    """What a batch's images show: their captions, or without `text` their classes.

    Raises:
        InputError: the data has neither.
    """
    if text is None:
        if batch.labels is None:
            raise InputError(
                "data has no labels: a class-conditional generator needs one sub-folder per class"
            )
        return ClassCondition(torch.tensor(batch.labels, device=batch.images.device))
    if batch.captions is None:
        raise InputError("data has no captions: a text-conditional generator needs them beside the images")
    return text.encode(batch.captions, device=batch.images.device)


def load_generator(name: str, cls: type[Model]) -> Model:
    """A generator of class `cls`: its own folder, or the one of any model that `visgen.load` knows.

    Raises:
        InputError: a generator of another kind.
    """
    if (Path(name) / "config.json").is_file():
        return cls.from_pretrained(name)
    generator = getattr(load(name), "generator", None)
    if not isinstance(generator, cls):
        raise InputError(f"options.init={name!r} has no {cls.__name__}")
    return generator


def shipped_tokenizer(name: str) -> str | None:
    """The tokenizer of a shipped model as other folders refer to it, MODEL/COMPONENT; None for other
    names."""
    if name not in shipped_models():
        return None
    component = read_index(assets_folder() / name).components.get("tokenizer")
    return None if component is None else component.shared or f"{name}/tokenizer"


def _text(kind: str, options: GeneratorOptions, data: Any) -> WordVocabulary | TextFeatures | None:
    if kind == "class":
        return None
    if kind == "text":
        if options.text_encoder is None:
            raise InputError("options.text_encoder is missing; name a transformers text encoder")
        return TextFeatures(options.text_encoder, options.text_length)
    words: Sequence[str] = options.words or getattr(data, "words", tuple)()
    if not words:
        raise InputError("the data has no captions: options.words must list the words, or condition be class")
    return WordVocabulary.from_words(words, options.text_length)


def _condition_config(kind: str, text: Any, data: Any, model: dict[str, Any]) -> dict[str, Any]:
    """The recipe's model section, completed by what text or classes determine."""
    if kind == "class":
        classes = getattr(data, "classes", None)
        return {"num_classes": len(classes) if classes else 1000} | model
    if kind == "prompt":
        return model | {"text_length": text.length, "text_vocab_size": text.vocab_size}
    return model | {"text_length": text.length, "text_dim": text.model.config.hidden_size}


def _first(batch: Batch, count: int) -> Batch:
    captions = None if batch.captions is None else batch.captions[:count]
    labels = None if batch.labels is None else batch.labels[:count]
    return Batch(batch.images[:count], captions, labels)
