"""Where in a picture the tokens stand that a pruner kept."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

from PIL import Image

from visgen.errors import InputError
from visgen.pipelines.answer import AnswerOutput, AnswerPipeline
from visgen.pruning.report import PruneReport


@dataclass(frozen=True, eq=False)
class TokenMap:
    """One picture whose tokens were pruned.

    Attributes:
        picture: as the model saw it, cut and scaled; the whole one for families that keep its proportions.
        grid: rows and columns of its tokens.
        stay: for each token, row by row: 1 = it reached the last layer, 0 = it never entered the language
            model, 0.5 = it was dropped inside.
        output: the answer and the report.
    """

    picture: Image.Image
    grid: tuple[int, int]
    stay: list[float]
    output: AnswerOutput

    @property
    def report(self) -> PruneReport:
        """What was kept, and what it cost."""
        return self.output.reports[0]


def map_tokens(pipe: AnswerPipeline, image: Any, question: str, **options: Any) -> TokenMap:
    """Ask one question about one picture, and tell which tokens stayed.

    Args:
        pipe: the model.
        image, question: what is asked.
        options: of `AnswerPipeline`; `prune` is needed.

    Raises:
        InputError: as the pipeline's, no `prune`, or a family whose tokens do not cover one grid.
    """
    if options.get("prune") is None:
        raise InputError("prune is missing; give a method, such as 'divprune:0.1'")
    inputs, picture = pipe.seen(image, question)
    output = pipe(image, question, **options)
    report = output.reports[0]
    total = report.image_tokens[0][0]
    stay = [0.0] * total
    for share, tokens in ((0.5, report.entered[0][0]), (1.0, report.kept[0][0])):
        for token in tokens.tolist():
            stay[token] = share
    return TokenMap(picture, _grid(pipe, inputs, total), stay, output)


def _grid(pipe: AnswerPipeline, inputs: Any, total: int) -> tuple[int, int]:
    """Rows and columns of the tokens of one image."""
    model = pipe.vision_language_model
    if "image_grid_thw" in inputs:  # Qwen: patches, of which merge × merge are a token
        merge = model.processor.image_processor.merge_size
        _, high, wide = inputs["image_grid_thw"][0].tolist()
        return high // merge, wide // merge
    side, tiles = isqrt(total), inputs["pixel_values"]
    if side * side == total and tiles.ndim == 4 and len(tiles) == 1:
        return side, side
    raise InputError(
        f"the {total} tokens of a {type(model.model).__name__} are those of several crops, which no single "
        "grid shows; use a LLaVA or a Qwen-VL"
    )
