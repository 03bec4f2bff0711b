"""Training of SEED tokenizers (arXiv 2310.01218, section 3; spec of the published code).

Stage "quantize" is the paper's second: vision transformer and causal Q-Former are frozen, codebook and
de-tokenizer learn. Stage "joint" trains everything at once from random weights, which is what small models
want. Stage "contrastive", the paper's first, is `visgen.training.seed_contrastive`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.nn.quantizers.codebook import code_counts, perplexity
from visgen.schema import read
from visgen.tokenizers.seed import SEEDPass, SEEDTokenizer, vq_loss
from visgen.training.codebook_care import CodebookCare
from visgen.training.objective import Objective
from visgen.training.recipe import Recipe
from visgen.training.reconstruction import to_pixels, validation_batches, validation_source
from visgen.training.seed_heads import AuxiliaryHeads, place_queries
from visgen.training.seed_probe import probe_accuracy
from visgen.training.seed_targets import EmbeddingTarget, TargetSpec, build_target

ENCODER = ("visual_encoder", "ln_vision", "query_tokens", "qformer")  # what the paper's first stage trains
MATRICES = ("blocks.", "blocks_image.", "encoder.layer.")  # whose 2-d weights Muon takes


@dataclass(frozen=True)
class SEEDOptions:
    """Weights and switches of the objective.

    Args:
        stage: see the module; "contrastive" takes the options of `ContrastiveOptions` instead.
        init: folder of a `SEEDTokenizer` to start from, or of a `SEEDContrastive`, whose vision transformer
            and Q-Former are taken.
        target: what the image embedding is distilled from.
        vq_weight, embedding_weight, rebuilt_weight: of the quantizer's loss, the squared error of the
            embedding, and 1 − cosine of the rebuilt states (models with `auxiliary`); the paper's 5, 0.5, 2.
        readout_weight, local_weight, vision_weight: of linear layers that predict the target from all codes,
            from each cell's codes, and from each cell's patches, see `AuxiliaryHeads`. With local_weight,
            new models start by `place_queries`.
        continuous_steps: first steps without quantising, so that vectors spread before codes are placed.
        restart_every: steps between restarts of dead codes, 0 = never; `restart_until` is a fraction of the
            run.
        restart_margin: a code used less than this times uniform is dead.
        validation_batches: batches of 64 of the validation split that are scored, 0 = none.
        probe_images: single objects that linear probes of colour and shape learn from, 0 = no probes.
            Scenes data only.
    """

    stage: Literal["quantize", "joint"] = "joint"
    init: str | None = None
    target: TargetSpec = field(default_factory=TargetSpec)
    vq_weight: float = 5.0
    embedding_weight: float = 0.5
    rebuilt_weight: float = 2.0
    readout_weight: float = 0.0
    local_weight: float = 0.0
    vision_weight: float = 0.0
    continuous_steps: int = 0
    restart_every: int = 20
    restart_until: float = 0.75
    restart_margin: float = 0.03
    validation_batches: int = 0
    probe_images: int = 0


class SEEDTokenizerObjective(Objective):
    """Distil an image embedding through a few ids.

    Args:
        model: what is trained.
        target: frozen; makes the embeddings.
        options: weights and switches.
        steps: length of the run, for `restart_until`.
        validation: a source of held-out images, or None.

    Raises:
        InputError: a target of another size than the model's embedding.
    """

    frozen: ClassVar[tuple[str, ...]] = ("target",)

    def __init__(
        self,
        model: SEEDTokenizer,
        target: EmbeddingTarget,
        options: SEEDOptions,
        steps: int,
        validation: Any = None,
    ) -> None:
        super().__init__()
        if target.dim != model.config.embedding_dim:
            raise InputError(
                f"model.embedding_dim={model.config.embedding_dim} must be {target.dim}, the target's"
            )
        self.model, self.target, self.options = model, target, options
        self.validation = validation
        self.care = CodebookCare(model.codebook, options, steps, decay=0.95)
        weights = {name: getattr(options, f"{name}_weight") for name in ("readout", "local", "vision")}
        self.heads = AuxiliaryHeads(model, target.grid, weights)
        if options.stage == "quantize":
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.split(".")[0] not in ENCODER)

    @classmethod
    def from_recipe(cls, recipe: Recipe, data: Any) -> Objective:
        if recipe.options.get("stage") == "contrastive":
            from visgen.training.seed_contrastive import SEEDContrastiveObjective

            return SEEDContrastiveObjective.from_recipe(recipe, data)
        options = read(SEEDOptions, recipe.options, "options")
        target = build_target(options.target)
        config = {"embedding_dim": target.dim} | recipe.model
        model = construct(SEEDTokenizer, config, "model")
        if options.init is not None:
            take_weights(model, options.init)
        elif options.local_weight and target.grid is not None:
            place_queries(model, target.grid)
        size = getattr(data, "image_size", model.pixel_size)
        if size != model.pixel_size:
            raise InputError(
                f"data.image_size={size} does not fit the model, which is for {model.pixel_size} pixels"
            )
        validation = validation_source(recipe, options.validation_batches)
        target.measure(data)
        return cls(model, target, options, recipe.steps, validation)

    def loss(self, batch: Batch, step: int, noise_seed: int) -> dict[str, Tensor]:
        options, images = self.options, to_pixels(batch.images)
        target = self.target(images)
        quantized = step >= options.continuous_steps
        out = self.model(images, quantize=quantized)
        values = distillation_losses(out, target)
        passed = out.vectors + (out.codes - out.vectors).detach() if quantized else out.vectors
        beside = self.heads(out, passed * self.model.code_scale, target)
        total = weighted_sum(values, options, quantized) + self.heads.total(beside)
        self.care.observe(out.vectors, out.ids)
        return {"loss": total, **values, **beside}

    def after_step(self, step: int) -> dict[str, float | Tensor]:
        """Restart dead codes, and say how the codebook does."""
        return self.care.after_step(self.model.quantize.embedding.weight.data, step)

    def matrices(self, name: str, parameter: Tensor) -> bool:
        """The 2-d weights of all transformer blocks."""
        return parameter.ndim == 2 and any(part in name for part in MATRICES)

    def evaluate(self, model: SEEDTokenizer, step: int) -> dict[str, float]:
        """On held-out images: cosine to the target, explained variance, codebook, and the probes."""
        scores: dict[str, float] = {}
        if self.validation is not None:
            scores = self._distillation_scores(model)
        if self.options.probe_images:
            scores |= probe_accuracy(model, self.options.probe_images)
        return scores

    def _distillation_scores(self, model: SEEDTokenizer) -> dict[str, float]:
        found, wanted, counts = [], [], torch.zeros(len(model.codebook))
        for batch in validation_batches(self.validation, self.options.validation_batches):
            images = to_pixels(batch.images.to(model.device))
            tokens = model.encode(images)
            found.append(model.decode_embedding(tokens).float())
            wanted.append(self.target(images))
            counts += code_counts(tokens.values.cpu(), len(counts))
        made, target = torch.cat(found), torch.cat(wanted)
        left = (made - target).square().mean() / (target - target.mean(0)).square().mean()
        return {
            "cosine": float(F.cosine_similarity(made, target).mean()),
            "explained": 1 - float(left),
            "codebook_used": float((counts > 0).float().mean()),
            "codebook_perplexity": float(perplexity(counts)),
        }

    def summary(self) -> dict[str, Any]:
        parts = self.model.named_children()
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts}
        return super().summary() | {f"parameters_{k}": v for k, v in counts.items()}


def distillation_losses(out: SEEDPass, target: Tensor) -> dict[str, Tensor]:
    """The terms of the paper's second stage, unweighted.

    Args:
        out: a training pass.
        target: (B, D).

    Returns:
        "vq", the quantizer's; "mse", of the embedding; and with auxiliary blocks "cosine", 1 − the mean
        cosine between the Q-Former's states, which get no gradient of it, and the rebuilt ones.
    """
    values = {"vq": vq_loss(out.vectors, out.codes), "mse": F.mse_loss(out.embedding.float(), target)}
    if out.rebuilt is not None:
        hidden = out.hidden.detach().float()
        values["cosine"] = 1 - F.cosine_similarity(out.rebuilt.float(), hidden, dim=-1).mean()
    return values


def weighted_sum(values: Mapping[str, Tensor], options: SEEDOptions, quantized: bool = True) -> Tensor:
    """The loss of `distillation_losses`' terms; the quantizer's counts only where it is used."""
    total = options.embedding_weight * values["mse"]
    if quantized:
        total = total + options.vq_weight * values["vq"]
    return total + options.rebuilt_weight * values["cosine"] if "cosine" in values else total


def take_weights(model: SEEDTokenizer, folder: str) -> None:
    """Start from a `SEEDTokenizer` folder, or take the encoder of a `SEEDContrastive` folder.

    Raises:
        InputError: neither, or one of other sizes.
    """
    from visgen.nn.model import read_config, read_weights

    name = read_config(Path(folder)).get("_class_name")
    if name not in ("SEEDTokenizer", "SEEDContrastive"):
        raise InputError(f"options.init={folder!r} holds a {name}, not a SEEDTokenizer or SEEDContrastive")
    own, state = model.state_dict(), read_weights(Path(folder))
    if name == "SEEDContrastive":
        state = {k: t for k, t in state.items() if k in own and k.split(".")[0] in ENCODER}
    wrong = [k for k, t in state.items() if k not in own or own[k].shape != t.shape]
    needed = [k for k in own if name == "SEEDTokenizer" or k.split(".")[0] in ENCODER]
    if wrong or set(needed) - state.keys():
        told = (wrong or sorted(set(needed) - state.keys()))[0]
        raise InputError(f"options.init={folder!r} does not fit the model: {told}; use its sizes")
    model.load_state_dict(state, strict=False)
