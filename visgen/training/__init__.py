"""Training: a recipe (YAML) names an objective, a data source and the knobs; one loop runs every objective.

Importing this package loads no torch; an objective is imported when `OBJECTIVES.load(name)` asks for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visgen.errors import InputError
from visgen.registry import Registry

OBJECTIVES = Registry(
    "training objective",
    {
        "multiscale-tokenizer": "visgen.training.tokenizer:MultiscaleTokenizerObjective",
        "flextok-tokenizer": "visgen.training.flextok:FlexTokObjective",
        "vq-tokenizer": "visgen.training.tokenizer:VQTokenizerObjective",
        "scenes-checker": "visgen.training.checker:SceneCheckerObjective",
        "next-scale-generator": "visgen.training.generator:NextScaleObjective",
        "next-token-generator": "visgen.training.generator:NextTokenObjective",
        "xar-generator": "visgen.training.xar:XARObjective",
        "karl-tokenizer": "visgen.training.karl:KARLObjective",
        "kl-tokenizer": "visgen.training.kl:KLObjective",
        "drafter": "visgen.training.drafter:DrafterObjective",
        "seed-tokenizer": "visgen.training.seed:SEEDTokenizerObjective",
        "seed-renderer": "visgen.training.seed_renderer:SEEDRendererObjective",
        "scenes-vlm": "visgen.training.vlm:VLMObjective",
        "seed-language-model": "visgen.training.seed_language:SeedLanguageObjective",
    },
)


def train(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, resume: bool = True
) -> Path:
    """Train what a recipe describes, resuming from its newest checkpoint when there is one.

    Interrupting (Ctrl-C, SIGTERM) finishes the step and saves; the same call goes on from there, exactly.

    Args:
        recipe: path of a YAML recipe, or the mapping itself.
        overrides: "dotted.key=value" strings, values in YAML.
        resume: False refuses an output folder that holds checkpoints, instead of going on from them.

    Returns:
        The output folder: `model/` (averaged weights) and `training_log.json` once finished, `recipe.yaml`,
        `log.jsonl`, `samples/` and `checkpoints/` on the way.

    Raises:
        InputError: the `train` extra is not installed, a bad recipe, or one that differs from the run it
            would resume.
        TrainingDivergedError: the loss or the gradient is no longer finite.
    """
    _require("accelerate", "tqdm", "yaml")
    from visgen.training.loop import Trainer
    from visgen.training.recipe import load_recipe

    return Trainer(load_recipe(recipe, overrides), resume=resume).run()


def _require(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"training needs {', '.join(missing)}, not installed; run pip install 'visgen[train]'"
        )


__all__ = ["OBJECTIVES", "train"]
