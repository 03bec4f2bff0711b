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
}

if TYPE_CHECKING:
    from visgen.checkpoints import from_official
    from visgen.errors import InputError
    from visgen.pipelines.base import ImagePipeline
    from visgen.pipelines.class_to_image import ClassToImagePipeline
    from visgen.pipelines.edit import EditPipeline
    from visgen.pipelines.listing import models
    from visgen.pipelines.loading import load
    from visgen.pipelines.output import ImageOutput
    from visgen.pipelines.reconstruct import ReconstructPipeline
    from visgen.pipelines.text_to_image import TextToImagePipeline

__all__ = [
    "ClassToImagePipeline",
    "EditPipeline",
    "ImageOutput",
    "ImagePipeline",
    "InputError",
    "ReconstructPipeline",
    "TextToImagePipeline",
    "__version__",
    "from_official",
    "load",
    "models",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'visgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
