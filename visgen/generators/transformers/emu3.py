"""Emu3 (arXiv 2409.18869): codes are words of one vocabulary, and each row of them ends with a line end."""

from __future__ import annotations

from visgen.errors import InputError
from visgen.generators.transformers.base import TransformersGenerator
from visgen.generators.transformers.trunk import WordTrunk
from visgen.tokenizers.tokens import Grid

OWN_GRID = Grid(90, 90)  # 720 × 720 pixels, 8 per code


class Emu3Generator(TransformersGenerator):
    """`Emu3ForConditionalGeneration`: h rows of w codes and a line end each.

    The size stands in the prompt (`90*90`), so prompts must be made for the same `grid`.
    """

    model_class = "Emu3ForConditionalGeneration"

    @property
    def own_grid(self) -> Grid:
        return OWN_GRID

    @property
    def codebook_size(self) -> int:
        return self.model.config.vq_config.codebook_size

    @property
    def line_end(self) -> int:
        return 1

    def trunk(self) -> WordTrunk:
        """The way into the text model.

        Raises:
            InputError: a vocabulary map without the codes or the line end.
        """
        mapping = self.model.vocabulary_mapping
        codes = mapping.img2bpe
        if mapping.eol_token_id is None or sorted(codes) != list(range(self.codebook_size)):
            raise InputError(
                f"model.config.vocabulary_map names {len(codes)} visual tokens and line end "
                f"{mapping.eol_token_id}; it must name {self.codebook_size} and <|extra_200|>"
            )
        ids = [codes[code] for code in range(self.codebook_size)]
        return WordTrunk(self.model.model.text_model, self.model.lm_head, ids, [mapping.eol_token_id])
