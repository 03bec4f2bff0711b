"""Published benchmarks with our pruners: `lmms-eval --model visgen --model_args pretrained=…,prune=…`.

lmms-eval is an extra. It finds this module by the entry point `lmms_eval.models` of the installed package.
"""

from __future__ import annotations

from typing import Any

NAME = "visgen"
CLASS = "visgen.evaluation.lmms_eval.model.VisgenLmm"


def manifest() -> Any:
    """What lmms-eval (0.6 or newer) is told about the model: its name, and the class to import."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, simple_class_path=CLASS, aliases=("visgen_pruned",))
