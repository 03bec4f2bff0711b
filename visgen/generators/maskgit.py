"""TiTok's MaskGIT generators (arXiv 2406.07550, `bytedance/1d-tokenizer`): a masked transformer over the 1-D
tokens of an image, with a class token in front."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from visgen.errors import InputError
from visgen.generators.base import (
    GenerationRequest,
    GenerationResult,
    GenerationStep,
    OnStep,
)
from visgen.generators.class_tokens import class_tokens, vocabulary_size
from visgen.generators.conditions import Condition
from visgen.generators.masked import MaskedGenerator
from visgen.generators.maskgit_backbones import BertBackbone, UViTBackbone
from visgen.nn.guidance import guidance_at, guide, step_position
from visgen.nn.initial import init_matrices
from visgen.nn.masked_sampling import MaskGITSampling, draw_maskgit, remasked
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling
from visgen.tokenizers.tokens import ImageTokens, Sequence1D

UNMASKED_WEIGHT = 0.1  # of tokens in the loss that the model was shown


class MaskGITGenerator(MaskedGenerator):
    """Masked transformer over a sequence of tokens, conditioned on a class.

    Args:
        num_tokens: N, tokens of an image.
        codebook_size: V, ids; id V is the mask, the classes follow, then "no class".
        backbone: "bert" or "uvit".
        hidden_size, depth, num_heads, mlp_size: the transformer (L32: 768, 24, 16, 3072; S128: "uvit",
            1024, 20, 16, 4096).
        num_classes: classes.
        dropout, attention_dropout: in training; U-ViT drops no attention.
        label_smoothing: of the training loss.
        num_inference_steps, choice_temperature, annealing: its recipe of sampling, which holds where a
            request has a plain `TokenSampling`; see `MaskGITSampling`.

    Raises:
        InputError: another backbone, or heads that do not divide the width.
    """

    @register_to_config
    def __init__(
        self,
        num_tokens: int = 32,
        codebook_size: int = 4096,
        backbone: Literal["bert", "uvit"] = "bert",
        hidden_size: int = 768,
        depth: int = 24,
        num_heads: int = 16,
        mlp_size: int = 3072,
        num_classes: int = 1000,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        label_smoothing: float = 0.1,
        num_inference_steps: int = 8,
        choice_temperature: float = 4.5,
        annealing: bool = False,
    ) -> None:
        super().__init__()
        self._init_tuples()
        if num_heads < 1 or hidden_size % num_heads:
            raise InputError(f"num_heads={num_heads} must divide hidden_size={hidden_size}")
        self._sampling(TokenSampling())  # raises on a recipe out of range
        ids, length = vocabulary_size(codebook_size, num_classes), 1 + num_tokens
        sizes = (ids, length, hidden_size, depth, num_heads, mlp_size)
        if backbone == "bert":
            self.trunk: nn.Module = BertBackbone(*sizes, dropout, attention_dropout)
        elif backbone == "uvit":
            self.trunk = UViTBackbone(*sizes, dropout)
        else:
            raise InputError(f"backbone={backbone!r} must be bert or uvit")
        self.head = nn.Linear(hidden_size, codebook_size)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Random weights: a truncated normal law of 0.02, zero biases."""
        init_matrices(self, nn.init.trunc_normal_)
        if isinstance(self.trunk, UViTBackbone):
            nn.init.trunc_normal_(self.trunk.pos_embed, std=0.02)

    @property
    def layout(self) -> Sequence1D:
        """Token layout of one image."""
        return Sequence1D(self.config.num_tokens)

    def forward(self, condition: Condition, ids_BL: Tensor) -> Tensor:
        """Logits (B, L, V) float32 of all tokens from ids, `mask_id` where they are to be predicted."""
        return self.head(self._states(self._class_tokens(condition), ids_BL)).float()

    def _class_tokens(self, condition: Condition) -> Tensor:
        return class_tokens(condition.to(self.device), self.config.codebook_size, self.config.num_classes)

    def _states(self, class_ids_B: Tensor, ids_BL: Tensor) -> Tensor:
        """What the head reads, (B, L, C)."""
        return self.trunk(torch.cat([class_ids_B[:, None], ids_BL], dim=1))[:, 1:]

    def loss(
        self,
        tokens: ImageTokens,
        condition: Condition,
        *,
        quantizer: object = None,
        masked: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy with label smoothing ("loss"), in which tokens that are not masked weigh 0.1, and how
        many masked ones are right ("accuracy").

        `masked` (B, L) bool, True = to be predicted; None draws it: a share acos(u) / (π/2) of each image, u
        uniform, at least one token, at random positions.
        """
        ids = self._ids(tokens)
        masked = self.draw_mask(len(ids)) if masked is None else masked
        masked = masked.to(ids.device)
        logits = self(condition, ids.masked_fill(masked, self.mask_id))
        entropy = F.cross_entropy(
            logits.flatten(0, 1), ids.flatten(), reduction="none", label_smoothing=self.config.label_smoothing
        ).view(ids.shape)
        weight = torch.where(masked, 1.0, UNMASKED_WEIGHT)
        right = ((logits.argmax(-1) == ids) & masked).sum() / masked.sum().clamp_min(1)
        return {"loss": (entropy * weight).sum() / weight.sum(), "accuracy": right}

    def draw_mask(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Training masks (B, L), see `loss`."""
        share = torch.rand(rows, 1, generator=generator).acos() / (torch.pi / 2)
        count = (share * self.layout.length).round().clamp_min(1)
        return torch.rand(rows, self.layout.length, generator=generator).argsort(dim=1) < count

    def _ids(self, tokens: ImageTokens) -> Tensor:
        """Ids (B, L) of tokens that fit."""
        if tokens.ids is None or tokens.layout != self.layout or tokens.ids.ndim != 2:
            raise InputError(f"tokens of layout {tokens.layout} do not fit a generator of {self.layout}")
        if tokens.mask is not None and not bool(tokens.mask.all()):
            raise InputError("tokens: a mask that leaves tokens out does not fit a generator of fixed length")
        return tokens.ids.to(self.device)

    @torch.no_grad()
    def generate(
        self,
        request: GenerationRequest,
        *,
        quantizer: object = None,
        strategy: object = None,
        on_step: OnStep | None = None,
    ) -> GenerationResult:
        """Generate a batch in `num_inference_steps` passes, conditional and unconditional rows at once.

        Raises:
            InputError: a strategy (only next-token models take one), another layout or number of tokens, or
                `known` ones.
        """
        self._check(request, strategy)
        sampling, noise = self._sampling(request.sampling), request.noise
        steps = sampling.num_inference_steps
        shape = len(request.condition), self.layout.length
        ids = drawn = torch.full(shape, self.mask_id, device=self.device)
        for step in range(steps):
            logits = self._guided(request.condition, ids, sampling, step, noise)
            ratio = (step + 1) / steps
            drawn, sure = draw_maskgit(logits, ids, self.mask_id, noise, sampling, ratio)
            if on_step is not None:
                on_step(GenerationStep(step, steps, drawn, None, logits))
            ids = remasked(drawn, sure, self.mask_id, ratio)
        tokens = ImageTokens(self.layout, ids=drawn)
        return GenerationResult(tokens, {"passes": steps, "tokens": self.layout.length})

    def _check(self, request: GenerationRequest, strategy: object) -> None:
        self.check_request(request, strategy)
        if request.known is not None:
            raise InputError("known: tokens of this model have no place in the image, so no part can be kept")

    def _sampling(self, sampling: TokenSampling) -> MaskGITSampling:
        """The request's, or the model's recipe for what a plain `TokenSampling` does not say."""
        if isinstance(sampling, MaskGITSampling):
            return sampling
        config = self.config
        own = {
            name: getattr(config, name) for name in ("num_inference_steps", "choice_temperature", "annealing")
        }
        return MaskGITSampling(**own | asdict(sampling))

    def _guided(
        self, condition: Condition, ids: Tensor, sampling: MaskGITSampling, step: int, noise: Noise
    ) -> Tensor:
        """Guided logits; guidance mixes what the head, which is linear, reads.

        Each official pass draws once per image, whether its label were to be dropped in training, and what a
        seed gives depends on it; with power_cosine there is an unconditional pass even where s = 1.
        """
        schedule = sampling.guidance_schedule
        position = step_position(schedule, step, sampling.num_inference_steps)
        scale = guidance_at(sampling.guidance_scale, schedule, position)
        for _ in range(2 if scale != 1.0 or schedule.startswith("power_cosine") else 1):
            noise.uniform(len(ids))
        if scale == 1.0:
            return self(condition, ids)
        classes = torch.cat([self._class_tokens(half) for half in (condition, condition.unconditional())])
        conditional, unconditional = self._states(classes, ids.repeat(2, 1)).float().chunk(2)
        return self.head(guide(conditional, unconditional, scale).to(self.head.weight.dtype)).float()
