"""Image generators by name; listing them imports nothing heavy."""

from visgen.registry import Registry

GENERATORS = Registry("generator", {"VARTransformer": "visgen.generators.var:VARTransformer"})
