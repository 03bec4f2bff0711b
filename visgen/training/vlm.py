"""Training of a small multimodal model that answers questions about scenes (LLaVA's way, 2310.03744, from
random weights): one picture, several questions in one pass, the loss on their answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.data.batch import Batch
from visgen.data.scenes import Question, SceneQuestions, ask_several, question_words, render
from visgen.errors import InputError
from visgen.pipelines.answer import AnswerPipeline
from visgen.pipelines.vision_language import VisionLanguageModel, VisionLanguageSizes
from visgen.schema import read
from visgen.training.objective import Objective
from visgen.training.prior import prior_weights, token_losses, weighted_mean
from visgen.training.recipe import Recipe
from visgen.training.tokenizer import to_pixels
from visgen.training.vlm_heads import TowerHeads
from visgen.training.vlm_options import VLMOptions
from visgen.training.vlm_sequences import Packed, pack_questions, packed_logits

EVALUATED_AT_ONCE = 32


class VLMObjective(Objective):
    """Predict the answers to questions about scenes.

    Args:
        model: a LLaVA over the words of the questions.
        options: see `VLMOptions`.
        reference: the blind model of PRIOR, or None.
    """

    frozen: ClassVar[tuple[str, ...]] = ("reference",)

    def __init__(
        self, model: VisionLanguageModel, options: VLMOptions, reference: VisionLanguageModel | None = None
    ) -> None:
        super().__init__()
        self.model, self.options, self.reference = model, options, reference
        vision = model.model.config.vision_config
        weights = {"facts": options.facts_weight, "looks": options.looks_weight}
        self.heads = TowerHeads(vision.hidden_size, {} if options.blind else weights)
        self.image_size, self.grid = vision.image_size, vision.image_size // vision.patch_size
        self._logits = packed_logits
        _check_lengths(model, options, self.grid**2)
        if reference is not None and reference.tokenizer.get_vocab() != model.tokenizer.get_vocab():
            raise InputError(f"options.prior_reference={options.prior_reference!r} has another vocabulary")

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> VLMObjective:
        options = read(VLMOptions, recipe.options, "options")
        if options.init and recipe.model:
            raise InputError("model must be empty beside options.init, whose sizes hold")
        if options.init:
            model = load_vision_language(options.init, "options.init")
        else:
            model = VisionLanguageModel.build(
                read(VisionLanguageSizes, recipe.model, "model"), question_words()
            )
        size = model.model.config.vision_config.image_size
        if getattr(data, "image_size", size) != size:
            raise InputError(f"data.size={data.image_size} does not fit the model's image_size={size}")
        if (name := options.prior_reference) is None:
            return cls(model, options)
        return cls(model, options, load_vision_language(name, "options.prior_reference"))

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        if batch.scenes is None:
            raise InputError("data has no ground truth: questions are asked of data.source=scenes alone")
        generator = torch.Generator().manual_seed(noise_seed)
        packed = self._questions(batch, noise_seed)
        pixels = None if self.options.blind else self._pixels(batch.images, generator)
        out = self._logits(self.model.model, pixels, packed.ids_BQW, self._count(generator))
        values = self._answer_losses(out.logits, packed)
        if out.pooled is not None and out.patches is not None:
            told = self.heads(out.pooled, out.patches, batch.scenes)
            values = {"loss": values["loss"] + self.heads.total(told), **_but_loss(values), **told}
        return values

    def _questions(self, batch: Batch, seed: int) -> Packed:
        options = self.options
        asked = [
            ask_several(scene, options.questions, seed % 10**9, options.kinds, sizes=not scene.is_small)
            for scene in batch.scenes or []
        ]
        packed, device = pack_questions(self.model.tokenizer, asked, options.width), batch.images.device
        return Packed(packed.ids_BQW.to(device), packed.answers_BQW.to(device))

    def _pixels(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Pixels in [-1, 1], some of them as a small picture would come."""
        pixels = to_pixels(images)
        rows = (torch.rand(len(images), generator=generator) < self.options.enlarged).to(images.device)
        return torch.where(rows[:, None, None, None], as_enlarged(pixels), pixels)

    def _count(self, generator: torch.Generator) -> int | None:
        """The number of vision tokens of this step; None = all."""
        counts = self.options.token_counts
        if not counts:
            return None
        weights = torch.tensor(self.options.token_weights or [1.0] * len(counts))
        return counts[int(torch.multinomial(weights, 1, generator=generator))]

    def _answer_losses(self, logits: Tensor, packed: Packed) -> dict[str, Tensor]:
        ids, mask = packed.ids_BQW, packed.answers_BQW[..., 1:]
        losses = token_losses(logits, ids)
        first = mask & ~packed.answers_BQW[..., :-1]  # the answer itself, without `</s>`
        weights = mask.float()
        if self.reference is not None:
            with torch.no_grad():
                blind = packed_logits(self.reference.model, None, ids).logits
            # anyone can tell that `</s>` follows; weighed by that, it would never be learnt
            weights = (mask & ~first) + prior_weights(blind, ids, first, self.options.prior_alpha)
        right = (logits[..., :-1, :].argmax(-1) == ids[..., 1:])[first].float().mean()
        answer = weighted_mean(losses.detach(), torch.ones_like(losses), mask)
        return {"loss": weighted_mean(losses, weights, mask), "answer": answer, "accuracy": right}

    def matrices(self, name: str, parameter: Tensor) -> bool:
        """Those of the layers of tower and language model, and of the projector."""
        return parameter.ndim == 2 and (".layers." in name or "multi_modal_projector" in name)

    def no_decay(self, name: str, parameter: Tensor) -> bool:
        """CLIP's table of positions too."""
        return super().no_decay(name, parameter) or "position_embedding" in name

    def compile_loss(self) -> None:
        """The pass over images and questions; each number of vision tokens is a shape of its own."""
        self._logits = torch.compile(packed_logits, dynamic=False)

    def evaluate(self, model: VisionLanguageModel, step: int) -> dict[str, float]:
        """Accuracy on held-out questions, in all and of each kind; the likeliest word is the answer."""
        if not self.options.validation_questions:
            return {}
        right: dict[str, list[float]] = {}
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            for kind, found in self._validated(model):
                right.setdefault(kind, []).append(found)
        means = {kind: sum(found) / len(found) for kind, found in right.items()}
        every = [one for found in right.values() for one in found]
        kinds = {f"accuracy_{kind.replace('/', '_')}": mean for kind, mean in means.items()}
        return {"accuracy": sum(every) / len(every), **kinds}

    def _validated(self, model: VisionLanguageModel) -> Iterator[tuple[str, float]]:
        """(kind, 1.0 where it is right) of each held-out question."""
        source = SceneQuestions("validation", self.options.validation_questions)
        for start in range(0, len(source), EVALUATED_AT_ONCE):
            asked = [source[i] for i in range(start, min(start + EVALUATED_AT_ONCE, len(source)))]
            questions: list[Question] = [one.question for one in asked]
            packed = pack_questions(model.tokenizer, [[one] for one in questions], self.options.width)
            pixels = to_pixels(render([one.scene for one in asked], self.image_size)).to(model.device)
            ids = packed.ids_BQW.to(model.device)
            logits = packed_logits(model.model, None if self.options.blind else pixels, ids).logits
            first = packed.answers_BQW.int().argmax(-1) - 1  # where the answer is predicted
            said = logits.argmax(-1).cpu().gather(-1, first[..., None]).flatten()
            wanted = packed.ids_BQW.gather(-1, first[..., None] + 1).flatten()
            yield from zip((one.kind for one in questions), (said == wanted).float().tolist(), strict=True)

    def export(self, folder: Path, model: VisionLanguageModel) -> None:
        """A pipeline that answers questions."""
        AnswerPipeline(model).save_pretrained(folder, card=self.options.card)

    def summary(self) -> dict[str, Any]:
        """Parameters of the model and its parts, and vision tokens."""
        parts = {"tower": "vision_tower", "projector": "multi_modal_projector", "language": "language_model"}
        base = self.model.model.model
        counts = {f"parameters_{name}": _size(getattr(base, part)) for name, part in parts.items()}
        return super().summary() | counts | {"vision_tokens": self.grid**2}


def load_vision_language(name: str, where: str) -> VisionLanguageModel:
    """The model of a folder that answers questions.

    Raises:
        InputError: another kind of model.
    """
    from visgen.pipelines.loading import load

    pipe = load(name)
    if not isinstance(pipe, AnswerPipeline) or pipe.vision_language_model.model.config.model_type != "llava":
        raise InputError(f"{where}={name!r} is no LLaVA that answers questions; train one with scenes-vlm")
    return pipe.vision_language_model


def as_enlarged(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, H, H) through the world's 64 pixels and back, as far as they are larger."""
    if pixels.shape[-1] <= 64:
        return pixels
    with torch.autocast(pixels.device.type, enabled=False):
        small = F.interpolate(pixels, size=(64, 64), mode="bicubic", antialias=True)
        return F.interpolate(small, size=pixels.shape[-2:], mode="bicubic").clamp(-1, 1)


def _check_lengths(model: VisionLanguageModel, options: VLMOptions, tokens: int) -> None:
    longest, most = 1 + tokens + options.width, model.model.config.text_config.max_position_embeddings
    if longest > most:
        raise InputError(f"model.max_length={most} is below the longest sequence, of {longest} ids")
    for count in options.token_counts:
        if count > tokens:
            raise InputError(f"options.token_counts={count} is above the {tokens} patches of an image")


def _but_loss(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if name != "loss"}


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
