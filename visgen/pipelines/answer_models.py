"""Folders of the transformers library whose models answer questions about images: LLaVA and its like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visgen.nn.model import read_json
from visgen.pipelines import VISION_LANGUAGE_MODELS


@dataclass(frozen=True, eq=False)
class AnswerFolder:
    """A model in the layout of the transformers library.

    Attributes:
        name: path or hub id, for messages.
        folder: gives the local folder.
    """

    name: str
    folder: Callable[[], Path]


def find_answer_model(folder: Path) -> AnswerFolder | None:
    """The model of a folder whose `config.json` names a type that reads images and writes text, or None."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    known = read_json(path).get("model_type") in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return AnswerFolder(str(folder), lambda: folder) if known else None


def load_answer_model(source: AnswerFolder, dtype: Any) -> dict[str, Any]:
    """The component of an `AnswerPipeline`.

    Raises:
        InputError: files that are missing, cannot be read or do not fit.
    """
    cls = VISION_LANGUAGE_MODELS.load("VisionLanguageModel")
    return {"vision_language_model": cls.from_pretrained(source.folder(), dtype=dtype)}
