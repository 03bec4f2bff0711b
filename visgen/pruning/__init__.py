"""Vision-token pruners of multimodal language models by name; listing them imports nothing heavy."""

from visgen.registry import Registry

PRUNERS = Registry(
    "pruner",
    {
        "random": "visgen.pruning.random_choice:RandomPruner",
        "uniform": "visgen.pruning.uniform:Uniform",
        "fastv": "visgen.pruning.fastv:FastV",
        "cls": "visgen.pruning.cls_attention:ClsAttention",
    },
)

__all__ = ["PRUNERS"]
