"""Image generators by name; listing them imports nothing heavy."""

from visgen.registry import Registry

GENERATORS = Registry(
    "generator",
    {
        "JanusGenerator": "visgen.generators.transformers.janus:JanusGenerator",
        "Emu3Generator": "visgen.generators.transformers.emu3:Emu3Generator",
        "ChameleonGenerator": "visgen.generators.transformers.chameleon:ChameleonGenerator",
        "VARTransformer": "visgen.generators.var:VARTransformer",
        "MaskGITGenerator": "visgen.generators.maskgit:MaskGITGenerator",
        "RARGenerator": "visgen.generators.rar:RARGenerator",
        "ELMMaskedTransformer": "visgen.generators.elm_masked:ELMMaskedTransformer",
        "RasterTransformer": "visgen.generators.raster:RasterTransformer",
        "XARGenerator": "visgen.generators.xar:XARGenerator",
    },
)

# Small models that draft tokens for a generator
DRAFTERS = Registry("drafter", {"Drafter": "visgen.generators.drafter:Drafter"})

__all__ = ["DRAFTERS", "GENERATORS"]
