"""The contract of renderers: pictures of image embeddings."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from visgen.errors import InputError
from visgen.nn.noise import Noise


class Renderer:
    """Mixin of every renderer. A picture is a draw: what an embedding leaves open comes from noise.

    Attributes:
        sampling: the default options of `render`.
    """

    sampling: Any

    @property
    @abstractmethod
    def embedding_dim(self) -> int:
        """Channels D of the embeddings it draws."""

    @property
    @abstractmethod
    def pixel_size(self) -> int:
        """Side in pixels of what it draws."""

    @abstractmethod
    def render(
        self,
        embeddings: Tensor,
        *,
        negative: Tensor | None = None,
        sampling: Any = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """Images (B, 3, H, W), about [-1, 1], unclamped, of embeddings (B, D).

        Args:
            embeddings: (B, D).
            negative: (B, D) what guidance leads away from; None = no embedding at all.
            sampling: the renderer's own options; None = its default.
            noise: where it starts; None = the same draw for every image.

        Raises:
            InputError: embeddings of another shape, or options that do not fit.
        """

    def check_embeddings(self, embeddings: Tensor, negative: Tensor | None = None) -> None:
        """Raise `InputError` for embeddings that are not (B, D), or a `negative` of another shape."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise InputError(
                f"embeddings of shape {tuple(embeddings.shape)} must be (B, {self.embedding_dim}): "
                f"{type(self).__name__} was made for others"
            )
        if negative is not None and negative.shape != embeddings.shape:
            raise InputError(
                f"negative of shape {tuple(negative.shape)} must be {tuple(embeddings.shape)}, as embeddings"
            )


def same_draw(count: int) -> Noise:
    """The noise of a call that gives none: every image gets the same draw."""
    return Noise.per_image([(0, 0)] * count)
