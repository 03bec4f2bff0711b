"""Training of a small language model that captions images and draws captions (SEED-LLaMA, 2310.01218, 4.2):
sequences of words and of the codes that a frozen tokenizer makes of each batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from visgen.data.batch import Batch
from visgen.data.images import image_grid
from visgen.data.scenes import Scenes
from visgen.data.scenes.captions import MAX_WORDS
from visgen.data.scenes.scene import Scene
from visgen.errors import InputError
from visgen.evaluation.scenes.adherence import evaluate_adherence
from visgen.evaluation.scenes.captions import score_captions
from visgen.nn.model import read_config
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.interleaved import InterleavedPipeline
from visgen.pipelines.language_models import LanguageModelSizes, SeedLlama
from visgen.pipelines.seed_vocabulary import SeedVocabulary
from visgen.schema import read
from visgen.tokenizers import RENDERERS
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import load_tokenizer, to_pixels
from visgen.training.seed_sequences import CAPTION, FIRST, IMAGE, PADDING, SequencePlan, write_sequences

EVALUATED_AT_ONCE = 32
INSTRUCTIONS = ("describe this picture", "what is in this picture", "what do you see")


@dataclass(frozen=True)
class LanguageOptions:
    """What the model stands on, and how it is trained.

    Args:
        tokenizer: model folder of a tokenizer with one code per token, or a model that has one.
        renderer: folder of what draws the tokenizer's embeddings; None = there is none, or none is needed.
        init: folder of a language model to start from, of the same vocabulary.
        words: closed vocabulary; None = the words of the training captions. Instructions add theirs.
        drawing: fraction of sequences that run from caption to image.
        condition_dropout: fraction of those without caption, for guidance.
        first_weight: weight of the loss on the part that stands first (1 as in the paper).
        instructions: phrases behind images that are captioned, one of them or none at a time.
        text_length: ids of the longest caption.
        fixed_width: pad every sequence to the longest there can be: one shape, for `compile: true`.
        sampling: default sampling of the exported pipeline, `TokenSampling` keywords.
        caption_scenes, drawing_scenes: held-out scenes, all kinds equally often, that are captioned, and
            drawn, with the sample grids; 0 = none. Scenes data only.
        decoding: how scores and samples are rendered, keywords of the renderer's sampling.
        card: facts for the model card.
    """

    tokenizer: str
    renderer: str | None = None
    init: str | None = None
    words: list[str] | None = None
    drawing: float = 0.5
    condition_dropout: float = 0.1
    first_weight: float = 1.0
    instructions: tuple[str, ...] = INSTRUCTIONS
    text_length: int = MAX_WORDS
    fixed_width: bool = True
    sampling: dict[str, Any] | None = None
    caption_scenes: int = 0
    drawing_scenes: int = 0
    decoding: dict[str, Any] | None = None
    card: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("drawing", "condition_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"options.{name}={getattr(self, name)} must be a fraction from 0 to 1")
        if self.first_weight < 0:
            raise InputError(f"options.first_weight={self.first_weight} must be 0 or more")


class SeedLanguageObjective(Objective):
    """Predict the next id of captions and images that stand one after the other.

    Args:
        model: the language model.
        tokenizer: frozen; makes codes of images.
        renderer: frozen; draws them, or None.
        options: see `LanguageOptions`.
    """

    frozen: ClassVar[tuple[str, ...]] = ("tokenizer", "renderer")

    def __init__(self, model: SeedLlama, tokenizer: Any, renderer: Any, options: LanguageOptions) -> None:
        super().__init__()
        self.model, self.tokenizer, self.renderer, self.options = model, tokenizer, renderer, options
        self.sampling = read(TokenSampling, options.sampling, "options.sampling")
        longest, most = _width(model.vocabulary, options), model.model.config.max_position_embeddings
        if longest > most:
            raise InputError(f"model.max_length={most} is below the longest sequence, of {longest} ids")
        width = longest if options.fixed_width else None
        self.plan = SequencePlan(options.drawing, options.condition_dropout, options.instructions, width)
        InterleavedPipeline(tokenizer, model, renderer)  # checks that they fit

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> SeedLanguageObjective:
        options = read(LanguageOptions, recipe.options, "options")
        tokenizer = load_tokenizer(options.tokenizer)
        if getattr(data, "image_size", tokenizer.pixel_size) != tokenizer.pixel_size:
            raise InputError(
                f"image_size={data.image_size} does not fit the tokenizer of {tokenizer.pixel_size} pixels"
            )
        renderer = None if options.renderer is None else load_renderer(options.renderer)
        if options.init:
            model = SeedLlama.from_pretrained(options.init)
        else:
            sizes = read(LanguageModelSizes, recipe.model, "model")
            model = SeedLlama.build(sizes, _vocabulary(tokenizer, options, data))
        return cls(model, tokenizer, renderer, options)

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        if batch.captions is None:
            raise InputError("data has no captions, which the language model reads and writes")
        # in full precision, as images are read later: bfloat16 turns many ids into neighbouring ones
        with torch.no_grad(), torch.autocast(batch.images.device.type, enabled=False):
            codes = self.tokenizer.encode(to_pixels(batch.images)).ids.flatten(1).tolist()
        generator = torch.Generator().manual_seed(noise_seed)
        made = write_sequences(self.model.vocabulary, batch.captions, codes, self.plan, generator)
        losses = self.model.losses(made.ids.to(batch.images.device))
        kinds = made.kinds[:, 1:].to(losses.device)
        weights = (kinds != PADDING) * torch.where(kinds == FIRST, self.options.first_weight, 1.0)
        parts = {"caption": kinds == CAPTION, "image": kinds == IMAGE}
        means = {name: _mean(losses.detach(), where.float()) for name, where in parts.items()}
        return {"loss": _mean(losses, weights)} | means

    def matrices(self, name: str, parameter: Tensor) -> bool:
        """Those of the transformer's layers; embeddings and head are AdamW's."""
        return parameter.ndim == 2 and ".layers." in name

    def pipeline(self, model: SeedLlama) -> InterleavedPipeline:
        """What a user will have."""
        pipe = InterleavedPipeline(self.tokenizer, model, self.renderer, self.options.sampling)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def draws(self) -> bool:
        """Whether images can be made of codes."""
        return self.renderer is not None or not hasattr(self.tokenizer, "decode_embedding")

    def samples(self, model: SeedLlama, batch: Batch) -> Image | None:
        """Sixteen images of the batch's captions, always from the same noise; None where nothing draws."""
        if not self.draws or batch.captions is None:
            return None
        with torch.autocast(batch.images.device.type, enabled=False):
            made = self.pipeline(model).draw(batch.captions[:16], seed=0, decoding=self.options.decoding)
        return image_grid(made.images, columns=8)

    def evaluate(self, model: SeedLlama, step: int) -> dict[str, float]:
        """Scores of captions and drawings of held-out scenes, as far as asked for."""
        scores: dict[str, float] = {}
        with torch.autocast(model.device.type, enabled=False):
            if self.options.caption_scenes:
                scores |= self._captioned(model)
            if self.options.drawing_scenes and self.draws:
                scores |= self._drawn(model)
        return scores

    def _captioned(self, model: SeedLlama) -> dict[str, float]:
        pipe = self.pipeline(model)
        captions: list[str] = []
        scenes: list[Scene] = []
        for batch in held_out(self.options.caption_scenes):
            captions += pipe.caption(list(to_pixels(batch.images)), batch_size=EVALUATED_AT_ONCE)
            scenes += batch.scenes or []
        score = score_captions(captions, scenes)
        attributes = {f"caption_{name}": value for name, value in score.attributes.items()}
        return {
            "caption_f1": score.f1,
            "caption_exact": score.exact,
            "caption_readable": score.readable,
        } | attributes

    def _drawn(self, model: SeedLlama) -> dict[str, float]:
        pipe = self.pipeline(model)
        images: list[np.ndarray] = []
        scenes: list[Scene] = []
        for batch in held_out(self.options.drawing_scenes):
            made = pipe.draw(
                batch.captions or [],
                seed=0,
                ordinals=list(range(len(scenes), len(scenes) + len(batch))),
                batch_size=EVALUATED_AT_ONCE,
                decoding=self.options.decoding,
            )
            images += [np.asarray(image) for image in made.images]  # type: ignore[attr-defined]
            scenes += batch.scenes or []
        report = evaluate_adherence(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), scenes)
        kinds = {f"adherence_{kind}": share.value for kind, share in report.kinds.items()}
        return {"adherence": report.overall.value} | kinds

    def export(self, folder: Path, model: SeedLlama) -> None:
        """A whole pipeline: tokenizer, language model, renderer, default sampling."""
        self.pipeline(model).save_pretrained(folder, card=self.options.card)


def held_out(count: int) -> list[Batch]:
    """Validation scenes, all kinds equally often and captioned in all wordings, in batches."""
    source = Scenes("validation", count, balanced=True)
    starts = range(0, count, EVALUATED_AT_ONCE)
    return [source.batch(range(start, min(start + EVALUATED_AT_ONCE, count))) for start in starts]


def load_renderer(name: str) -> Any:
    """A renderer's own folder.

    Raises:
        InputError: another kind of folder.
    """
    kind = read_config(Path(name)).get("_class_name", "")
    return RENDERERS.load(kind).from_pretrained(name)


def _vocabulary(tokenizer: Any, options: LanguageOptions, data: Any) -> SeedVocabulary:
    words = list(options.words or getattr(data, "words", tuple)())
    if not words:
        raise InputError("the data has no captions: options.words must list the words")
    if tokenizer.codebook is None:
        raise InputError("options.tokenizer has no codebook; a language model reads codes")
    asked = [word for phrase in options.instructions for word in phrase.split()]
    return SeedVocabulary.from_words([*words, *asked], len(tokenizer.codebook), tokenizer.layout.length)


def _width(words: SeedVocabulary, options: LanguageOptions) -> int:
    """The longest sequence: `<s>`, an image, an instruction, a caption, `</s>`."""
    asked = max((len(ids) for ids in words.words(options.instructions)), default=0)
    return 1 + asked + words.images.length + 2 + options.text_length + 1


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)
