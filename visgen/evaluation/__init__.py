"""How good are the images: named protocols, metrics, references, result records.

Importing this package loads no torch. `visgen.evaluation.run.evaluate` is the entrance.
"""

from visgen.registry import Registry

# name → function (protocol, ExtractorOptions) → feature extractor; see `visgen.evaluation.extractors`
EXTRACTORS = Registry(
    "feature extractor",
    {
        "inception": "visgen.evaluation.inception:load_inception",
        "scenes-checker": "visgen.evaluation.checker_features:load_checker_features",
    },
)

__all__ = ["EXTRACTORS"]
