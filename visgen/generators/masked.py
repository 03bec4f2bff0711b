"""What generators have in common that predict all tokens at once, from those that are not masked."""

from __future__ import annotations

from abc import abstractmethod

from visgen.errors import InputError
from visgen.generators.base import GenerationRequest, ImageGenerator
from visgen.nn.model import VisgenModel
from visgen.tokenizers.tokens import Layout


class MaskedGenerator(VisgenModel, ImageGenerator):
    """Base of masked transformers over a codebook of `codebook_size` ids."""

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """Token layout of one image."""

    @property
    def mask_id(self) -> int:
        """The id that stands for a masked token: the first one behind the codebook."""
        return self.config.codebook_size

    def check_request(self, request: GenerationRequest, strategy: object) -> None:
        """Raise `InputError` for a strategy, a number of tokens, or another layout than the model's."""
        if strategy is not None:
            raise InputError(
                "strategy: only next-token generators accept one; this model predicts all tokens"
            )
        self.check_num_tokens(request.num_tokens)
        if request.layout not in (None, self.layout):
            raise InputError(f"layout={request.layout} is not the model's, {self.layout}")
