"""Image tokenizers by name; listing them imports nothing heavy."""

from visgen.registry import Registry

TOKENIZERS = Registry("tokenizer", {"VARTokenizer": "visgen.tokenizers.var:VARTokenizer"})
