"""Sources of images: the procedural `scenes` world and folders of files, plus image reading and writing.

Importing this package loads no torch; a source is imported when `SOURCES.load(name)` asks for it.
"""

from visgen.registry import Registry

SOURCES = Registry(
    "data source",
    {
        "scenes": "visgen.data.scenes.dataset:Scenes",
        "folder": "visgen.data.folder:ImageFolder",
        "tokens": "visgen.training.token_source:TokenShards",
    },
)

__all__ = ["SOURCES"]
