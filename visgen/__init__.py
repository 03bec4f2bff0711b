"""visgen: autoregressive visual models. `visgen.load("scenes-var")("a red circle", seed=0).images[0]`.

Importing this package loads neither torch nor diffusers; names are resolved when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "load": "visgen.pipelines.loading",
    "models": "visgen.pipelines.listing",
    "InputError": "visgen.errors",
    "ImagePipeline": "visgen.pipelines.base",
    "ImageOutput": "visgen.pipelines.output",
    "TextToImagePipeline": "visgen.pipelines.text_to_image",
    "ClassToImagePipeline": "visgen.pipelines.class_to_image",
    "EditPipeline": "visgen.pipelines.edit",
    "ReconstructPipeline": "visgen.pipelines.reconstruct",
    "from_official": "visgen.checkpoints",
    "evaluate": "visgen.evaluation.run",
    "EvaluationOptions": "visgen.evaluation.options",
    "generate_folder": "visgen.pipelines.folder",
    "read_rows": "visgen.pipelines.rows",
}

if TYPE_CHECKING:
    from visgen.checkpoints import from_official
    from visgen.errors import InputError
    from visgen.evaluation.options import EvaluationOptions
    from visgen.evaluation.run import evaluate
    from visgen.pipelines.base import ImagePipeline
    from visgen.pipelines.class_to_image import ClassToImagePipeline
    from visgen.pipelines.edit import EditPipeline
    from visgen.pipelines.folder import generate_folder
    from visgen.pipelines.listing import models
    from visgen.pipelines.loading import load
    from visgen.pipelines.output import ImageOutput
    from visgen.pipelines.reconstruct import ReconstructPipeline
    from visgen.pipelines.rows import read_rows
    from visgen.pipelines.text_to_image import TextToImagePipeline

__all__ = [
    "ClassToImagePipeline",
    "EditPipeline",
    "EvaluationOptions",
    "ImageOutput",
    "ImagePipeline",
    "InputError",
    "ReconstructPipeline",
    "TextToImagePipeline",
    "__version__",
    "evaluate",
    "from_official",
    "generate_folder",
    "load",
    "models",
    "read_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'visgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
