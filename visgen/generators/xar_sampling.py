"""One generation with xAR: its state lives here, belongs to the call, and is dropped with it."""

from __future__ import annotations

import torch
from torch import Tensor

from visgen.errors import InputError
from visgen.generators.base import GenerationRequest, GenerationResult, GenerationStep, OnStep
from visgen.generators.xar_geometry import rotary_tables
from visgen.nn.cache import KVCache
from visgen.nn.entity_sampling import EntitySampling
from visgen.nn.flow import euler, euler_maruyama, even_times, guide, maruyama_times
from visgen.nn.model import VisgenModel
from visgen.nn.rope import Rotation
from visgen.tokenizers.tokens import ImageTokens

KEPT_BYTES = 2**29  # of modulation vectors: beyond, those of further noise levels are made anew per entity


class EntityRun:
    """Cache, modulation vectors and finished entities of a batch that is being generated.

    Rows are doubled, conditional first, when guidance is on anywhere; passes of entities without guidance
    compute the first half alone. The cache holds the text and the clean entities; the noisy one is written
    behind them at each pass and left there only when it is clean, so that no pass needs a mask.

    Args:
        model: the `XARGenerator` that asks; its class imports this module, not the other way round.
        request: see `GenerationRequest`.
    """

    def __init__(self, model: VisgenModel, request: GenerationRequest) -> None:
        if not isinstance(request.sampling, EntitySampling):
            raise InputError(f"sampling must be an EntitySampling, not {type(request.sampling).__name__}")
        self.model, self.request, self.sampling = model, request, request.sampling
        self.batch_size = len(request.condition)
        self.scales = self.sampling.scales(len(model.entities))
        self.guided = self.needs_both()
        vector, prefix = self._embed_condition()
        # Equal conditions, such as all without one, share their modulation vectors
        vectors, index = torch.unique(vector.float().cpu(), dim=0, return_inverse=True)
        self.vectors, self.index = vectors.to(vector), index.to(vector.device)
        self.kept: dict[float, Tensor] = {}
        self.places = model.entities.slices()
        self.rotation = rotary_tables(
            model.entities.places(), model.head_size, model.text_length, model.device
        )
        self.cache = self._new_cache(len(vector))
        self.passes = 0
        if prefix is not None:
            self._features(prefix, 0.0, 0.0, slice(0, model.text_length))
            self.cache.advance(model.text_length)

    def needs_both(self) -> bool:
        """Whether any entity needs its unconditional half."""
        return any(scale != 1.0 for scale in self.scales)

    def _embed_condition(self) -> tuple[Tensor, Tensor | None]:
        condition = self.request.condition
        halves = [condition, condition.unconditional()] if self.guided else [condition]
        vectors, prefixes = zip(*[self.model.embed_condition(half) for half in halves], strict=True)
        return torch.cat(vectors), None if prefixes[0] is None else torch.cat(prefixes)

    def _new_cache(self, rows: int) -> KVCache:
        config, model = self.model.config, self.model
        length = model.text_length + model.entities.length
        kind = {"dtype": model.dtype, "device": model.device}
        return KVCache(model.depth, rows, config.num_heads, length, model.head_size, **kind)

    def run(self, on_step: OnStep | None = None) -> GenerationResult:
        """All entities in their order."""
        entities = self.model.entities
        parts: list[Tensor] = []
        for entity in range(len(entities)):
            parts.append(self._draw(entity))
            if on_step is not None:
                on_step(GenerationStep(entity, len(entities), None, entities.so_far(parts)))
            if entity < len(entities) - 1:
                self._remember(entity, parts[-1])
        tokens = ImageTokens(self.model.layout, latents=entities.restore(torch.cat(parts, dim=1)))
        return GenerationResult(tokens, {"passes": self.passes, "tokens": self.model.layout.length})

    def _draw(self, entity: int) -> Tensor:
        """A clean entity (B, n, C) float32, from noise."""
        shape = self.batch_size, self.model.entities.lengths[entity], self.model.config.latent_channels
        dtype = torch.float64 if self.sampling.float64 else torch.float32

        def draw() -> Tensor:
            return self.request.noise.normal(*shape, device=self.model.device).to(dtype)

        def velocity(x: Tensor, t: float) -> Tensor:
            return self.velocity(entity, x, t)

        steps = self.sampling.num_inference_steps
        if self.sampling.solver == "ode":
            return euler(velocity, draw(), even_times(steps)).float()
        return euler_maruyama(velocity, draw(), maruyama_times(steps), draw).float()

    def velocity(self, entity: int, x_BLC: Tensor, t: float) -> Tensor:
        """Guided velocity of an entity, in the type of x; the entities before are in the cache."""
        scale = self.scales[entity]
        if scale == 1.0:
            return self.predict(entity, x_BLC, t)
        conditional, unconditional = self.predict(entity, x_BLC.repeat(2, 1, 1), t).chunk(2)
        return guide(conditional, unconditional, scale)

    def predict(self, entity: int, x_RLC: Tensor, t: float) -> Tensor:
        """Velocities of the first rows, conditional ones first."""
        return self.model.pred(self._entity_features(entity, x_RLC, t)).to(x_RLC.dtype)

    def _remember(self, entity: int, clean_BLC: Tensor) -> None:
        """Put a clean entity into the cache."""
        self._entity_features(entity, clean_BLC.repeat(2 if self.guided else 1, 1, 1), 0.0)
        self.cache.advance(clean_BLC.shape[1])

    def _entity_features(self, entity: int, x_RLC: Tensor, t: float) -> Tensor:
        model, place = self.model, self.places[entity]
        x = model.embed_latents(x_RLC, model.encoder_pos[:, place])
        at = slice(model.text_length + place.start, model.text_length + place.stop)
        return self._features(x, t, model.decoder_pos[:, place], at)

    def _features(self, x: Tensor, t: float, decoder_pos: Tensor | float, at: slice) -> Tensor:
        """What the head reads of rows x (R, L, C) at noise level t, which stand `at` some positions."""
        self.passes += 1
        rotation: Rotation = (self.rotation[0][at], self.rotation[1][at])
        return self.model.trunk(x, self._modulations(t, len(x)), decoder_pos, rotation, cache=self.cache)

    def _modulations(self, t: float, rows: int) -> list[tuple[Tensor, ...]]:
        """Those of each block for the first rows at a noise level: made once per level and condition."""
        vectors = self.kept.get(t)
        if vectors is None:
            times = torch.full((len(self.vectors), 1), t, device=self.vectors.device)
            vectors = torch.stack(self.model.modulations(self.vectors, times))  # (layers, U, 1, 6, C)
            if (len(self.kept) + 1) * vectors.nbytes <= KEPT_BYTES:
                self.kept[t] = vectors
        if vectors.shape[1] > 1:
            vectors = vectors[:, self.index[:rows]]
        return [one.unbind(2) for one in vectors]
