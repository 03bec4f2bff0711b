"""The cells of a study: every combination of its blocks' values, under names that files can have."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from visgen.errors import InputError
from visgen.evaluation.metrics import parse_metrics
from visgen.evaluation.options import EvaluationOptions
from visgen.evaluation.studies.study import GenerateBlock, ReconstructBlock, Study, as_values

# How a value stands in a label, in the order of a label
WORDS = {
    "strategy": "{}",
    "guidance_scale": "guidance {:g}",
    "temperature": "temperature {:g}",
    "top_k": "top-k {}",
    "top_p": "top-p {:g}",
    "steps": "{} steps",
    "solver": "{}",
    "num_tokens": "{} tokens",
    "max_error": "error {:g}",
    "decode_steps": "{} decoder steps",
    "decode_guidance": "decoder guidance {:g}",
}
LONGEST = 100  # characters of a file's name


@dataclass(frozen=True)
class Cell:
    """One evaluation of a study.

    Attributes:
        kind: "generate" or "reconstruct".
        name: of its files.
        label: for people.
        model: the subject.
        parameters: what was asked for beyond the model, by the names of `WORDS`.
        options: all that the evaluation is asked for.
    """

    kind: Literal["generate", "reconstruct"]
    name: str
    label: str
    model: str
    parameters: dict[str, Any]
    options: EvaluationOptions

    def facts(self) -> dict[str, Any]:
        """What a record says of its cell, JSON-ready."""
        return {
            "kind": self.kind,
            "name": self.name,
            "label": self.label,
            "model": self.model,
            "seed": self.options.seed,
            "parameters": self.parameters,
        }


def cells_of(study: Study) -> list[Cell]:
    """All cells in the order of the study.

    Raises:
        InputError: two cells of one name, a name for several cells, or prompts that cannot be read.
    """
    found = [*_generated(study), *_reconstructed(study)]
    names: dict[str, Cell] = {}
    for cell in found:
        other = names.setdefault(cell.name.lower(), cell)
        if other is not cell:
            raise InputError(
                f"cells {other.label!r} and {cell.label!r} would have the same name, {cell.name}; list each "
                "once, or give one a name"
            )
    return found


def _generated(study: Study) -> Iterator[Cell]:
    common = dataclasses.replace(study.shared_options(), prompts=study.prompt_list())
    for block in study.generate:
        metrics = block.metrics or study.metrics.generate
        for seed in study.seeds:
            suffix = f"seed {seed}" if len(study.seeds) > 1 else None
            asked = dataclasses.replace(common, seed=seed)
            yield from _block_cells("generate", block, asked, metrics, block.count or study.count, suffix)


def _reconstructed(study: Study) -> Iterator[Cell]:
    asked = dataclasses.replace(study.shared_options(), seed=study.seeds[0])
    for block in study.reconstruct:
        metrics = block.metrics or study.metrics.reconstruct
        yield from _block_cells("reconstruct", block, asked, metrics, block.count or study.count, None)


def _block_cells(
    kind: Literal["generate", "reconstruct"],
    block: GenerateBlock | ReconstructBlock,
    common: EvaluationOptions,
    metrics: tuple[str, ...] | None,
    count: int,
    suffix: str | None,
) -> Iterator[Cell]:
    names = [name for name in WORDS if hasattr(block, name)]
    columns = [as_values(block.model), *(as_values(getattr(block, name)) for name in names)]
    combinations = list(itertools.product(*columns))
    if block.name is not None and len(combinations) > 1:
        raise InputError(f"name={block.name!r} is for {len(combinations)} cells; give it to a block of one")
    judged = None if metrics is None else parse_metrics(metrics)
    for model, *values in combinations:
        parameters = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        label = " · ".join([block.name or label_of(kind, model, parameters), *([suffix] if suffix else [])])
        options = dataclasses.replace(common, metrics=judged, count=count, **parameters)
        yield Cell(kind, slug(f"{kind} {label}"), label, model, parameters, options)


def label_of(kind: str, model: str, parameters: dict[str, Any]) -> str:
    """Words for people: "scenes-ar · sjd:16 · guidance 2"."""
    words = [WORDS[name].format(value) for name, value in parameters.items()]
    return " · ".join([model, *(one.removesuffix("s") if one.startswith("1 ") else one for one in words)])


def slug(text: str) -> str:
    """A text as a file name: letters, digits, ".", "_", "-"; an InputError where nothing is left of it."""
    made = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._-]+", "-", text)).strip("-.")
    if len(made) > LONGEST:
        raise InputError(f"cell {text!r} has too long a name; give its block a shorter name")
    return made
