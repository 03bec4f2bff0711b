"""SEED's first stage: the causal Q-Former learns from image-text pairs (arXiv 2310.01218, section 3.1).

The vision transformer is frozen; its norm, the queries, the Q-Former and both projections learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.nn.model import read_config, read_weights
from visgen.pipelines.prompts import WordVocabulary
from visgen.schema import read
from visgen.tokenizers.seed_contrastive import SEEDContrastive, Similarities
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import to_pixels, validation_batches, validation_source

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.001, 0.5  # BLIP's bounds
VISION = "visual_encoder."


@dataclass(frozen=True)
class ContrastiveOptions:
    """Options of stage "contrastive".

    Args:
        stage: "contrastive".
        init: folder of a `SEEDTokenizer` or `SEEDContrastive` whose vision transformer to take; None = random
            weights, which then must learn too (`train_vision`).
        train_vision: train the vision transformer; the paper's is frozen.
        words: closed vocabulary; None = the words of the training captions.
        text_length: words per caption, beside [CLS].
        label_smoothing: of the cross-entropy.
        validation_batches: batches of 64 of the validation split that are scored by retrieval, 0 = none.
    """

    stage: Literal["contrastive"] = "contrastive"
    init: str | None = None
    train_vision: bool = False
    words: list[str] | None = None
    text_length: int = 31
    label_smoothing: float = 0.1
    validation_batches: int = 0


class SEEDContrastiveObjective(Objective):
    """Bring an image's last query and its caption together.

    Args:
        model: what is trained; its vocabulary is that of `text` and one id more, [CLS].
        text: words of the captions.
        options: see `ContrastiveOptions`.
        validation: a source of held-out pairs, or None.

    Raises:
        InputError: a model of another vocabulary, or a random vision transformer that would stay so.
    """

    def __init__(
        self,
        model: SEEDContrastive,
        text: WordVocabulary,
        options: ContrastiveOptions,
        validation: Any = None,
    ) -> None:
        super().__init__()
        if model.config.vocab_size != text.vocab_size + 1 or model.config.max_length < text.length + 1:
            raise InputError(
                f"model.vocab_size={model.config.vocab_size}, max_length={model.config.max_length} must be "
                f"{text.vocab_size + 1} and {text.length + 1}"
            )
        if options.init is None and not options.train_vision:
            raise InputError("options.init names no vision transformer: set it, or train_vision: true")
        self.model, self.text, self.options, self.validation = model, text, options, validation
        model.visual_encoder.requires_grad_(options.train_vision)

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> SEEDContrastiveObjective:
        options = read(ContrastiveOptions, recipe.options, "options")
        words: Sequence[str] = options.words or getattr(data, "words", tuple)()
        if not words:
            raise InputError("the data has no captions: options.words must list the words")
        text = WordVocabulary.from_words(words, options.text_length)
        told = {"vocab_size": text.vocab_size + 1, "max_length": text.length + 1}
        model = construct(SEEDContrastive, told | recipe.model, "model")
        if options.init is not None:
            take_vision(model, options.init)
        return cls(model, text, options, validation_source(recipe, options.validation_batches))

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ids and presence (B, 1 + T) of a batch's captions, [CLS] first.

        Raises:
            InputError: data without captions.
        """
        if batch.captions is None:
            raise InputError("data has no captions: the contrastive stage trains on image-text pairs")
        condition = self.text.encode(batch.captions, device=batch.images.device)
        first = torch.full_like(condition.input_ids[:, :1], self.text.vocab_size)
        present = torch.cat([torch.ones_like(condition.mask[:, :1]), condition.mask], dim=1)
        return torch.cat([first, condition.input_ids], dim=1), present

    def similarities(self, model: SEEDContrastive, batch: Batch) -> Similarities:
        """Of all pairs of a batch."""
        ids, present = self.pairs(batch)
        images = model.vision_features(to_pixels(batch.images))
        image_vectors = model.image_vectors(model.query_states(images))
        return model.similarities(image_vectors, model.text_vectors(model.text_states(ids, present)))

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        similar = self.similarities(self.model, batch)
        return {"loss": similar.loss(self.options.label_smoothing), "accuracy": _accuracy(similar)}

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, float | Tensor]:
        """Keep the temperature in its bounds."""
        self.model.temp.clamp_(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)
        return {"temperature": self.model.temp.detach().clone()}

    def evaluate(self, model: SEEDContrastive, step: int) -> dict[str, float]:
        """How often the right one of 64 captions is nearest, and the right one of 64 images."""
        if self.validation is None:
            return {}
        batches = validation_batches(self.validation, self.options.validation_batches)
        found = [float(_accuracy(self.similarities(model, batch))) for batch in batches]
        return {"accuracy": sum(found) / len(found)}

    def compile_loss(self) -> None:
        """Compile the Q-Former, both passes of it."""
        self.model.qformer.compile()


def take_vision(model: SEEDContrastive, folder: str) -> None:
    """Copy the vision transformer of a `SEEDTokenizer` or `SEEDContrastive` folder.

    Raises:
        InputError: neither, or one of other sizes.
    """
    name = read_config(Path(folder)).get("_class_name")
    state = {k: t for k, t in read_weights(Path(folder)).items() if k.startswith(VISION)}
    own = {k: t.shape for k, t in model.state_dict().items() if k.startswith(VISION)}
    if name not in ("SEEDTokenizer", "SEEDContrastive") or own != {k: t.shape for k, t in state.items()}:
        raise InputError(f"options.init={folder!r} holds no vision transformer of the model's sizes")
    model.load_state_dict(state, strict=False)


def _accuracy(similar: Similarities) -> Tensor:
    pairs = torch.arange(len(similar.image_to_text), device=similar.image_to_text.device)
    sides = (similar.image_to_text, similar.text_to_image)
    return torch.stack([(side.argmax(1) == pairs).float().mean() for side in sides]).mean()
