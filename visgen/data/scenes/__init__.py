"""The scenes world: procedural 64x64 pictures of coloured shapes, with captions that say just what is drawn.

Everything a caption leaves out has a fixed default: the background is white, a size is medium.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "BACKGROUNDS": "vocabulary",
    "COLOURS": "vocabulary",
    "IMAGE_SIZE": "vocabulary",
    "PALETTE": "vocabulary",
    "RELATIONS": "vocabulary",
    "SHAPES": "vocabulary",
    "SIZES": "vocabulary",
    "ANSWERS": "questions",
    "QUESTION_KINDS": "questions",
    "Question": "questions",
    "ask": "questions",
    "ask_several": "questions",
    "question_words": "questions",
    "SceneQuestions": "question_set",
    "JUDGE": "splits",
    "SPLITS": "splits",
    "Scene": "scene",
    "SceneObject": "scene",
    "Scenes": "dataset",
    "caption": "captions",
    "parse_caption": "parsing",
    "render": "rendering",
    "render_background": "rendering",
    "sample_scene": "sampling",
    "shrunk": "sampling",
    "words": "captions",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
