"""Chameleon's children that draw: Anole (arXiv 2407.06135) and Lumina-mGPT (2408.02657).

The model's own `forward` forbids image tokens, so its trunk and the image rows of its head are used directly.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from visgen.errors import InputError
from visgen.generators.transformers.base import TransformersGenerator
from visgen.generators.transformers.trunk import WordTrunk
from visgen.tokenizers.tokens import Grid

LINE_END = 8803  # Lumina-mGPT's, a reserved word of Chameleon's vocabulary
Format = Literal["anole", "lumina"]


class ChameleonGenerator(TransformersGenerator):
    """`ChameleonForConditionalGeneration` fine-tuned to draw.

    Args:
        model: the loaded model.
        grid: codes of an image; None = 32 × 32 for Anole, which knows nothing else, 48 × 48 for Lumina-mGPT.
        format: "anole" (codes alone) or "lumina" (a line end behind each row; the size stands in the prompt).
        line_end_id: id of the line end in the model's vocabulary.

    Raises:
        InputError: an unknown format, or a grid that the format cannot write.
    """

    model_class = "ChameleonForConditionalGeneration"

    def __init__(
        self, model: Any, grid: Grid | None = None, format: Format = "anole", line_end_id: int = LINE_END
    ) -> None:
        if format not in get_args(Format):
            raise InputError(f"format={format!r} must be one of {', '.join(get_args(Format))}")
        self.format, self.line_end_id = format, line_end_id
        super().__init__(model, grid)
        if format == "anole" and self.grid != self.own_grid:
            raise InputError(f"grid={self.grid} must be {self.own_grid}: Anole draws one size")
        if format == "lumina" and (self.grid.h % 2 or self.grid.w % 2):
            raise InputError(
                f"grid={self.grid} must have even sides: Lumina-mGPT counts sizes in pairs of codes"
            )

    @property
    def own_grid(self) -> Grid:
        vq = self.model.config.vq_config
        side = vq.resolution // 2 ** (len(vq.channel_multiplier) - 1)
        return Grid(side, side) if self.format == "anole" else Grid(side * 3 // 2, side * 3 // 2)

    @property
    def codebook_size(self) -> int:
        return self.model.config.vq_config.num_embeddings

    @property
    def line_end(self) -> int:
        return 1 if self.format == "lumina" else 0

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"format": self.format, "line_end_id": self.line_end_id}

    def trunk(self) -> WordTrunk:
        """The way into the decoder.

        Raises:
            InputError: a vocabulary map without the codes.
        """
        codes = self.model.model.vocabulary_mapping.img2bpe
        if sorted(codes) != list(range(self.codebook_size)):
            raise InputError(
                f"model.config.vocabulary_map names {len(codes)} image tokens (IMGIMG…); "
                f"it must name {self.codebook_size}"
            )
        ids = [codes[code] for code in range(self.codebook_size)]
        return WordTrunk(self.model.model, self.model.lm_head, ids, [self.line_end_id] * self.line_end)
