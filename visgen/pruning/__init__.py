"""Vision-token pruners of multimodal language models by name; listing them imports nothing heavy."""

from visgen.registry import Registry

PRUNERS = Registry("pruner", {})

__all__ = ["PRUNERS"]
