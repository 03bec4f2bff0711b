"""Image tokenizers by name; listing them imports nothing heavy."""

from visgen.registry import Registry

TOKENIZERS = Registry(
    "tokenizer",
    {
        "BAETokenizer": "visgen.tokenizers.bae:BAETokenizer",
        "TransformersVQ": "visgen.tokenizers.transformers_vq:TransformersVQ",
        "VARTokenizer": "visgen.tokenizers.var:VARTokenizer",
        "VQTokenizer": "visgen.tokenizers.vq:VQTokenizer",
    },
)
