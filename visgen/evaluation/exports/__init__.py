"""Prompts and images in the layouts that official judges read. Importing this loads no torch."""

from visgen.registry import Registry

# name → function (LayoutRequest) → layout; see `visgen.evaluation.exports.layout`
LAYOUTS = Registry(
    "export layout",
    {
        "geneval": "visgen.evaluation.exports.geneval:geneval_layout",
        "dpg": "visgen.evaluation.exports.dpg:dpg_layout",
        "adm": "visgen.evaluation.exports.adm:adm_layout",
    },
)

__all__ = ["LAYOUTS"]
