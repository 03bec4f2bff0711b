"""Vision-token pruners of multimodal language models by name; listing them imports nothing heavy."""

from visgen.registry import Registry

PRUNERS = Registry(
    "pruner",
    {
        "random": "visgen.pruning.random_choice:RandomPruner",
        "uniform": "visgen.pruning.uniform:Uniform",
        "fastv": "visgen.pruning.fastv:FastV",
        "cls": "visgen.pruning.cls_attention:ClsAttention",
        "divprune": "visgen.pruning.divprune:DivPrune",
        "mustdrop": "visgen.pruning.mustdrop:MustDrop",
        "globalcom2": "visgen.pruning.globalcom2:GlobalCom2",
        "recoverable": "visgen.pruning.recoverable:RecoverableCompression",
        "tokencorr": "visgen.pruning.tokencorr:TokenCorr",
        "lazyllm": "visgen.pruning.lazyllm:LazyLLM",
    },
)

__all__ = ["PRUNERS"]
