"""Every random draw of a generation goes through one `Noise` object.

*per image* (default): one generator per image, so an image never depends on its batch. *shared*: one
generator over the batch, in the order the papers' code draws (parity). *replayed*: draws that were recorded
elsewhere (goldens). Draws are made on the CPU and moved, so that a seed means the same on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from visgen.errors import InputError


def image_seed(seed: int, ordinal: int, stream: str = "") -> int:
    """Seed of the `ordinal`-th image of a prompt: a 63-bit hash of (seed, ordinal[, stream])."""
    key = f"{seed}:{ordinal}:{stream}" if stream else f"{seed}:{ordinal}"
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Noise:
    """Random draws for a batch of images, row by row.

    Build one with `per_image`, `shared` or `replayed`. All draws are float32 tensors whose first dimension is
    the batch; `device` says where they are wanted.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator] = (),
        *,
        shared: torch.Generator | None = None,
        replay: Iterable[Tensor] | None = None,
    ) -> None:
        if (len(generators) > 0) + (shared is not None) + (replay is not None) != 1:
            raise InputError("Noise needs exactly one of generators, shared and replay")
        self._generators = list(generators)
        self._shared = shared
        self._replay = iter(replay) if replay is not None else None

    @classmethod
    def per_image(cls, seeds: Iterable[tuple[int, int]], stream: str = "") -> Noise:
        """One CPU generator per image from its (seed, ordinal among the images of its prompt).

        Draws of another `stream` ("decoding") do not depend on how many were made of the first, which differs
        with the number of tokens and the strategy.
        """
        return cls([torch.Generator().manual_seed(image_seed(seed, k, stream)) for seed, k in seeds])

    @classmethod
    def shared(cls, seed: int) -> Noise:
        """One CPU generator over the whole batch, drawing in the order of the official code."""
        return cls(shared=torch.Generator().manual_seed(seed))

    @classmethod
    def replayed(cls, draws: Iterable[Tensor]) -> Noise:
        """Hand out recorded tensors one after another; a draw of another shape raises `InputError`."""
        return cls(replay=draws)

    def rows(self, index: Sequence[int]) -> Noise:
        """The noise of some images; it goes on drawing from their generators. A row that is named again
        (padding) draws what the first does.

        Raises:
            InputError: noise that is not per image.
        """
        if not self._generators:
            raise InputError("shared and replayed noise cannot be cut into rows; use Noise.per_image")
        again = [row in index[:k] for k, row in enumerate(index)]
        chosen = [self._generators[row] for row in index]
        return Noise([g.clone_state() if twice else g for g, twice in zip(chosen, again, strict=True)])

    def exponential(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Exp(1) draws of `shape` (B, …)."""
        return self._draw(lambda out, g: out.exponential_(generator=g), shape, device)

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal draws of `shape` (B, …)."""
        return self._draw(lambda out, g: out.normal_(generator=g), shape, device)

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Uniform [0, 1) draws of `shape` (B, …)."""
        return self._draw(lambda out, g: out.uniform_(generator=g), shape, device)

    def categorical(self, probabilities_BLV: Tensor) -> Tensor:
        """One index per position, (B, L): the exponential race argmax(p / E).

        Equal to `torch.multinomial(p, 1)` with the same generator. Rows need not be normalised.
        """
        draws = self.exponential(*probabilities_BLV.shape, device=probabilities_BLV.device)
        return (probabilities_BLV.float() / draws).argmax(dim=-1)

    def labels(self, num_classes: int, batch_size: int) -> Tensor:
        """`batch_size` labels drawn uniformly with replacement, (B,) int64."""
        if self._shared is not None:  # the official code's first draw
            weights = torch.full((num_classes,), 1.0 / num_classes)
            return torch.multinomial(weights, batch_size, replacement=True, generator=self._shared)
        return (self.uniform(batch_size) * num_classes).long().clamp_(max=num_classes - 1)

    def _draw(
        self,
        fill: Callable[[Tensor, torch.Generator], Tensor],
        shape: tuple[int, ...],
        device: torch.device | str,
    ) -> Tensor:
        if self._replay is not None:
            return _expect(next(self._replay, None), shape).to(device)
        out = torch.empty(shape)
        if self._shared is not None:
            return fill(out, self._shared).to(device)
        if shape[0] != len(self._generators):
            raise InputError(
                f"noise holds {len(self._generators)} images, but {shape[0]} rows were asked for"
            )
        for row, generator in zip(out, self._generators, strict=True):
            fill(row, generator)
        return out.to(device)


def _expect(draw: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    if draw is None or tuple(draw.shape) != tuple(shape):
        found = "no draw" if draw is None else f"a draw of shape {tuple(draw.shape)}"
        raise InputError(f"replayed noise holds {found} where {tuple(shape)} is needed")
    return draw.float()
