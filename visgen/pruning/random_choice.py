"""Random tokens: the baseline that selection methods often fail to beat (UniPruneBench)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from visgen.nn.noise import Noise
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.views import ImageView, Selection


@dataclass(frozen=True)
class RandomPruner(VisionTokenPruner):
    """Keep tokens drawn without replacement.

    Args:
        seed: the draw is that of (seed, number of the image in its prompt), so that a batch keeps what its
            samples alone keep; give every prompt another seed where draws should differ.
    """

    seed: int = 0

    def select(self, images: Sequence[ImageView]) -> list[Selection]:
        return [self._draw(image) for image in images]

    def _draw(self, image: ImageView) -> Selection:
        noise = Noise.per_image([(self.seed, image.ordinal)], stream="pruning")
        ranked_N: Tensor = noise.uniform(1, len(image))[0].argsort()
        return Selection(ranked_N[: self.budget(len(image))].to(image.features_ND.device))
