"""Janus and Janus-Pro (arXiv 2410.13848, 2501.17811): image codes have embeddings and a head of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from visgen.generators.transformers.base import TransformersGenerator
from visgen.generators.transformers.trunk import Trunk
from visgen.tokenizers.tokens import Grid


class JanusTrunk(Trunk):
    """Code embeddings go through an aligner, the head is a small MLP over the codes alone."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.model.language_model, model.config.vq_config.num_embeddings)
        self._model = model

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return self._model.prepare_embeddings_for_image_generation(ids)

    def head(self, hidden: Tensor) -> Tensor:
        return self._model.model.generation_head(hidden)


class JanusGenerator(TransformersGenerator):
    """`JanusForConditionalGeneration`: a square of codes (24 × 24), no format tokens.

    The unconditional prompt is the prompt itself with every word but the begin-of-sequence and
    begin-of-image tokens replaced by padding that is *seen*: `JanusPrompts` makes it.
    """

    model_class = "JanusForConditionalGeneration"

    @property
    def own_grid(self) -> Grid:
        return Grid(*[self.model.config.vq_config.num_patches] * 2)

    @property
    def codebook_size(self) -> int:
        return self.model.config.vq_config.num_embeddings

    def trunk(self) -> JanusTrunk:
        """The way into the language model."""
        return JanusTrunk(self.model)
