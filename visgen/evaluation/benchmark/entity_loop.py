"""The straightforward loop of xAR, as the published implementation writes it: what ours is held against.

Both halves of guidance are computed even for entities that have none, time embeddings and adaptive norms
anew in every pass and for every row, keys and values are concatenated, and a clean entity is read again in
front of the next one, behind a mask. The latents are those of `XARGenerator.generate` for the same draws, up
to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visgen.generators.base import GenerationRequest
from visgen.generators.xar_blocks import spread
from visgen.generators.xar_geometry import rotary_tables
from visgen.nn.flow import euler, euler_maruyama, even_times, maruyama_times
from visgen.nn.guidance import guide


class ConcatenatedCache:
    """Keys and values of clean positions, put together anew in every pass.

    Attributes:
        kept: how many of a pass's own positions stay, the first ones.
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.kept = 0

    def extend(self, layer: int, k_BHLD: Tensor, v_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, those before in front."""
        before = self.layers.get(layer)
        length = 0 if before is None else before[0].shape[2]
        k, v = (k_BHLD, v_BHLD) if before is None else map(_joined, before, (k_BHLD, v_BHLD))
        if self.kept:
            self.layers[layer] = k[:, :, : length + self.kept], v[:, :, : length + self.kept]
        return k, v


def _joined(before: Tensor, now: Tensor) -> Tensor:
    return torch.cat([before, now], dim=2)


@torch.no_grad()
def straightforward_loop(model: Any, request: GenerationRequest) -> Tensor:
    """Latents (B, h·w, C) float32 of a batch.

    Args:
        model: an `XARGenerator`.
        request: see `GenerationRequest`.
    """
    return _Loop(model, request).run()


class _Loop:
    def __init__(self, model: Any, request: GenerationRequest) -> None:
        self.model, self.sampling, self.noise = model, request.sampling, request.noise
        halves = [
            model.embed_condition(half) for half in (request.condition, request.condition.unconditional())
        ]
        self.vector = torch.cat([vector for vector, _ in halves])
        self.prefix = None if halves[0][1] is None else torch.cat([prefix for _, prefix in halves])
        self.cache = ConcatenatedCache()
        self.scales = self.sampling.scales(len(model.entities))

    def run(self) -> Tensor:
        parts: list[Tensor] = []
        for entity in range(len(self.model.entities)):
            parts.append(self._draw(entity, parts))
        return self.model.entities.restore(torch.cat(parts, dim=1))

    def _draw(self, entity: int, parts: list[Tensor]) -> Tensor:
        config, first = self.model.config, True
        shape = len(self.vector) // 2, self.model.entities.lengths[entity], config.latent_channels

        def draw() -> Tensor:
            return self.noise.normal(*shape, device=self.model.device)

        def velocity(x: Tensor, t: float) -> Tensor:
            nonlocal first
            front = self._in_front(entity, parts) if first else None
            first = False
            conditional, unconditional = self._pass(entity, x.repeat(2, 1, 1), t, front).chunk(2)
            return guide(conditional, unconditional, self.scales[entity])

        steps = self.sampling.num_inference_steps
        if self.sampling.solver == "ode":
            return euler(velocity, draw(), even_times(steps))
        return euler_maruyama(velocity, draw(), maruyama_times(steps), draw)

    def _in_front(self, entity: int, parts: list[Tensor]) -> tuple[Tensor, Tensor, slice] | None:
        """What the first pass of an entity reads before it: input, second position table, places."""
        if entity == 0:
            prefix = self.prefix
            return (
                None if prefix is None else (prefix, torch.zeros_like(prefix[:1]), slice(0, prefix.shape[1]))
            )
        x, decoder_pos = self._embedded(entity - 1, parts[-1].repeat(2, 1, 1))
        return x, decoder_pos, self._places(entity - 1)

    def _places(self, entity: int) -> slice:
        place, text = self.model.entities.slices()[entity], self.model.text_length
        return slice(place.start + text, place.stop + text)

    def _embedded(self, entity: int, x: Tensor) -> tuple[Tensor, Tensor]:
        place = self.model.entities.slices()[entity]
        embedded = self.model.embed_latents(x, self.model.encoder_pos[:, place])
        return embedded, self.model.decoder_pos[:, place]

    def _pass(self, entity: int, x: Tensor, t: float, front: tuple[Tensor, Tensor, slice] | None) -> Tensor:
        """Velocity of an entity; what stands in front of it is clean, and remembered."""
        model, places = self.model, self._places(entity)
        (x, decoder_pos), times, lengths, mask = self._embedded(entity, x), [t], [x.shape[1]], None
        if front is not None:
            x = torch.cat([front[0].to(x.dtype), x], dim=1)
            decoder_pos = torch.cat([front[1].to(x.dtype), decoder_pos], dim=1)
            places, times, lengths = (
                slice(front[2].start, places.stop),
                [0.0, t],
                [front[0].shape[1], *lengths],
            )
            mask = self._mask(lengths)
        levels = torch.tensor(times, device=x.device).expand(len(x), -1)
        modulations = [spread(vectors, lengths) for vectors in model.modulations(self.vector, levels)]
        cos, sin = rotary_tables(model.entities.places(), model.head_size, model.text_length, model.device)
        rotation = cos[places], sin[places]
        self.cache.kept = lengths[0] if front is not None else 0
        features = model.trunk(x, modulations, decoder_pos, rotation, mask=mask, cache=self.cache)
        return model.pred(features[:, -lengths[-1] :]).float()

    def _mask(self, lengths: list[int]) -> Tensor:
        """Bool (L, keys): what stands in front does not see the noisy entity, all see what was before."""
        entity = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        own = entity[:, None] >= entity[None, :]
        before = self.cache.layers[0][0].shape[2] if self.cache.layers else 0
        return F.pad(own, (before, 0), value=True).to(self.model.device)
