"""Image tokenizers by name; listing them imports nothing heavy."""

from visgen.registry import Registry

TOKENIZERS = Registry(
    "tokenizer",
    {
        "BAETokenizer": "visgen.tokenizers.bae:BAETokenizer",
        "KLTokenizer": "visgen.tokenizers.kl:KLTokenizer",
        "KARLTokenizer": "visgen.tokenizers.karl:KARLTokenizer",
        "SEEDTokenizer": "visgen.tokenizers.seed:SEEDTokenizer",
        "MaskGITTokenizer": "visgen.tokenizers.maskgit_vqgan:MaskGITTokenizer",
        "TiTokTokenizer": "visgen.tokenizers.titok:TiTokTokenizer",
        "FlexTokTokenizer": "visgen.tokenizers.flextok:FlexTokTokenizer",
        "TransformersVQ": "visgen.tokenizers.transformers_vq:TransformersVQ",
        "VARTokenizer": "visgen.tokenizers.var:VARTokenizer",
        "VQTokenizer": "visgen.tokenizers.vq:VQTokenizer",
    },
)

# Pictures of image embeddings: what SEED's tokens are drawn with
RENDERERS = Registry(
    "renderer",
    {
        "FlowRenderer": "visgen.tokenizers.renderers.flow:FlowRenderer",
        "UnCLIPRenderer": "visgen.tokenizers.renderers.unclip:UnCLIPRenderer",
    },
)
