"""One generation with VAR: its state lives here, belongs to the call, and is dropped with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.errors import InputError
from visgen.generators.base import GenerationRequest, GenerationResult, GenerationStep, OnStep
from visgen.nn.cache import KVCache
from visgen.nn.guidance import guidance_at, guide
from visgen.nn.model import VisgenModel
from visgen.nn.quantizers.multiscale import MultiScaleVQ
from visgen.nn.sampling import TokenSampling, token_law
from visgen.tokenizers.tokens import ImageTokens


class NextScaleRun:
    """Cache, modulation vectors and running feature f̂ of a batch that is being generated.

    Rows are doubled, conditional first, when guidance is on anywhere.

    Args:
        model: the `VARTransformer` that asks; its class imports this module, not the other way round.
        request: see `GenerationRequest`.
        quantizer: the tokenizer's.
    """

    def __init__(self, model: VisgenModel, request: GenerationRequest, quantizer: MultiScaleVQ) -> None:
        if not isinstance(request.sampling, TokenSampling):
            raise InputError(f"sampling must be a TokenSampling, not {type(request.sampling).__name__}")
        self.model, self.request, self.quantizer = model, request, quantizer
        self.sizes = model.layout.sizes
        self.batch_size = len(request.condition)
        self.scales = [self._guidance(index) for index in range(len(self.sizes))]
        self.guided = any(scale != 1.0 for scale in self.scales)
        self.vector, prefix = self._embed_condition()
        self.modulations, self.head_modulation = model.modulations(self.vector)
        self.positions = model.positions().split(model.layout.lengths, dim=1)
        self.cache = self._new_cache()
        self.fhat = torch.zeros(
            self.batch_size, model.config.latent_channels, *self.sizes[-1], device=model.device
        )
        self.known = _known_per_scale(request, self.sizes, model.device)
        if prefix is not None:
            model.run_blocks(prefix, self.modulations, cache=self.cache)

    def _position(self, index: int) -> float:
        """0 at the first scale, 1 at the last; a single scale is the last."""
        return index / (len(self.sizes) - 1) if len(self.sizes) > 1 else 1.0

    def _guidance(self, index: int) -> float:
        sampling = self.request.sampling
        return guidance_at(sampling.guidance_scale, sampling.guidance_schedule, self._position(index))

    def _embed_condition(self) -> tuple[Tensor, Tensor | None]:
        condition = self.request.condition
        halves = [condition, condition.unconditional()] if self.guided else [condition]
        vectors, prefixes = zip(*[self.model.embed_condition(half) for half in halves], strict=True)
        return torch.cat(vectors), None if prefixes[0] is None else torch.cat(prefixes)

    def _new_cache(self) -> KVCache:
        config = self.model.config
        return KVCache(
            config.depth,
            len(self.vector),
            config.num_heads,
            config.text_length + self.model.layout.length,
            config.hidden_size // config.num_heads,
            dtype=self.model.dtype,
            device=self.model.device,
        )

    def run(self, on_step: OnStep | None = None) -> GenerationResult:
        """All scales, coarse to fine."""
        ids = []
        for index in range(len(self.sizes)):
            logits = self._logits(index)
            drawn, codes = self._draw(logits, index)
            kept, codes = self._keep_known(drawn, codes, index)
            ids.append(kept)
            self.fhat = self.fhat + self.quantizer.contribution(codes, index, self.sizes)
            if on_step is not None:
                on_step(GenerationStep(index, len(self.sizes), drawn, self.fhat, logits))
        tokens = ImageTokens(self.model.layout, ids=torch.cat(ids, dim=1))
        passes = len(self.sizes) + (self.model.config.text_length > 0)
        latents = self.fhat if self.request.sampling.smooth else None
        return GenerationResult(tokens, {"passes": passes, "tokens": self.model.layout.length}, latents)

    def _logits(self, index: int) -> Tensor:
        """Guided logits of a scale, float32 (B, h·w, V)."""
        x = self._inputs(index) + self.positions[index]
        x = self.model.run_blocks(x, self.modulations, cache=self.cache)
        features = self.model.head_norm(x, self.head_modulation)
        if self.guided:  # before the head, which is linear: the same logits at half its cost
            conditional, unconditional = features.chunk(2)
            features = guide(conditional, unconditional, self.scales[index])
        return self.model.head(features)

    def _inputs(self, index: int) -> Tensor:
        if index == 0:
            return self.vector[:, None] + self.model.pos_start
        x = self.model.word_embed(self.quantizer.next_input(self.fhat, self.sizes[index])).to(
            self.model.dtype
        )
        return x.repeat(2, 1, 1) if self.guided else x

    def _draw(self, logits: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Ids (B, h·w), and the code vectors (B, h·w, C) to go on with."""
        sampling = self.request.sampling
        law = token_law(logits, sampling)
        ids = self.request.noise.categorical(law.softmax(dim=-1))
        if not sampling.smooth:
            return ids, self.quantizer.embed(ids)
        position = self._position(index)
        gumbel = -self.request.noise.exponential(*law.shape, device=law.device).log()
        tau = max(0.27 * (1 - 0.95 * position), 0.005)
        soft = ((law * (1 + position) + gumbel) / tau).softmax(dim=-1)
        return ids, soft @ self.quantizer.embedding.weight

    def _keep_known(self, ids: Tensor, codes: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Put the source's tokens where the keep mask says so."""
        if self.known is None:
            return ids, codes
        source, keep = self.known[index]
        return torch.where(keep, source, ids), torch.where(
            keep[..., None], self.quantizer.embed(source), codes
        )


def _known_per_scale(
    request: GenerationRequest, sizes: tuple[tuple[int, int], ...], device: torch.device
) -> list[tuple[Tensor, Tensor]] | None:
    """Source ids (B, h·w) and keep mask bool (B or 1, h·w) of each scale (VAR's zero-shot editing)."""
    if request.known is None:
        return None
    tokens, keep = request.known
    if (
        tuple(keep.shape[-2:]) != sizes[-1]
        or keep.ndim != 3
        or tokens.layout.length != sum(h * w for h, w in sizes)
    ):
        raise InputError(
            f"known: keep_mask {tuple(keep.shape)} must be (B or 1, {sizes[-1][0]}, {sizes[-1][1]})"
        )
    masks = [keep_at(keep.to(device), size) for size in sizes]
    return list(zip(tokens.to(device).per_scale(), masks, strict=True))


def keep_at(keep_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """The keep mask on a scale's grid; grids of up to three positions are kept whole, as in the official
    code."""
    if size[0] * size[1] <= 3:
        return torch.ones(len(keep_BHW), size[0] * size[1], dtype=torch.bool, device=keep_BHW.device)
    return (F.interpolate(keep_BHW[:, None].float(), size=size, mode="bilinear") > 0.5).flatten(1)
