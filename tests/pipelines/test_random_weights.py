"""Random weights stand in the architecture of the official files."""

import json
import re
from pathlib import Path

import pytest
import torch

from visgen.checkpoints.catalogue import CATALOGUE, official
from visgen.checkpoints.var import convert_transformer
from visgen.errors import InputError
from visgen.generators.conditions import ClassCondition
from visgen.generators.elm_masked import ELMMaskedTransformer
from visgen.generators.maskgit import MaskGITGenerator
from visgen.generators.rar import RARGenerator
from visgen.generators.raster import RasterTransformer
from visgen.generators.var import VARTransformer
from visgen.generators.xar import XARGenerator
from visgen.pipelines import random_weights
from visgen.pipelines.random_weights import architecture, random_pipeline

SHAPES = json.loads((Path(__file__).parents[1] / "golden/var/official_shapes.json").read_text())
DRAWING = [entry for entry in CATALOGUE.values() if "generator" in entry.files]
CLASSES = {
    "var": (VARTransformer, 108.95e6),  # with the tokenizer's parameters
    "llamagen": (RasterTransformer, 71.88e6),
    "elm-ar": (RasterTransformer, 83e6),  # the whole GAN
    "elm-mlm": (ELMMaskedTransformer, 83e6),
    "titok-maskgit": (MaskGITGenerator, {"titok-l32": 641e6, "titok-b64": 204.8e6, "titok-s128": 83.7e6}),
    "rar": (RARGenerator, 54.5e6),
    "xar": (XARGenerator, 66.46e6),
}


def on_meta(config, cls=VARTransformer):
    with torch.device("meta"):
        return cls(**config)


def test_var_d16_has_the_shapes_of_the_official_file():
    """The golden list names the first block only; the others are like it."""
    own = on_meta(architecture(official("var-d16"))).state_dict()
    found = {key: list(t.shape) for key, t in own.items() if not re.match(r"blocks\.(?!0\.)", key)}
    assert found == convert_transformer(dict(SHAPES["var_d16"]))


@pytest.mark.parametrize("entry", DRAWING, ids=lambda entry: entry.alias)
def test_sizes_are_those_of_the_catalogue(entry):
    """The download holds 4 bytes a parameter: the generator's and the tokenizer's."""
    cls, tokenizer = CLASSES[entry.system]
    tokenizer = tokenizer if isinstance(tokenizer, float) else tokenizer[entry.alias]
    config = architecture(entry)
    tensors = on_meta(config, cls).state_dict().values()
    parameters = sum(tensor.numel() for tensor in tensors)
    if entry.system == "elm-mlm":  # stored by the official code, never used
        parameters += (config["codebook_size"] + 1) * config["hidden_size"]
    assert parameters * 4 == pytest.approx(entry.size_bytes - 4 * tokenizer, rel=0.01)


def test_a_tokenizer_alone_draws_nothing():
    with pytest.raises(InputError, match="var-d16"):
        architecture(official("var-tokenizer"))


def test_the_global_generator_is_left_alone(monkeypatch):
    small = {"scales": (1, 2), "hidden_size": 16, "depth": 2, "num_heads": 2}
    monkeypatch.setattr(random_weights, "architecture", lambda entry: small)
    monkeypatch.setattr(
        random_weights,
        "VARTokenizer",
        lambda scales: random_weights_tokenizer(scales),
    )
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = random_pipeline("var-d16"), random_pipeline("var-d16")
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.generator.head.weight, other.generator.head.weight)
    assert one.sampling.top_k == 900


def random_weights_tokenizer(scales):
    from visgen.tokenizers.var import VARTokenizer

    return VARTokenizer(scales=scales, ch=8, ch_mult=(1, 2), num_res_blocks=1, norm_groups=4)


SMALL = {"hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_size": 16}


@pytest.mark.parametrize("alias", ["llamagen-b-384", "elm-l-2-8", "elm-mlm-l-1-16"])
def test_next_token_and_masked_models(alias, monkeypatch):
    """The published grid, codes and conditions, in a small transformer; laws are not flat."""
    monkeypatch.setattr(random_weights, "_llama", lambda size: SMALL)
    pipe = random_pipeline(alias)
    config = pipe.generator.config
    assert pipe.generator.layout == pipe.tokenizer.layout and config.num_classes == 1000
    if alias.startswith("llamagen"):
        assert pipe.tokenizer.pixel_size == 384 and config.codebook_size == len(pipe.tokenizer.codebook)
    else:
        assert pipe.tokenizer.codebook_size == config.codebook_size == 2 ** (16 // config.num_codes)
    ids = torch.zeros(1, pipe.generator.layout.length, config.num_codes, dtype=torch.long)
    with torch.no_grad():
        assert pipe.generator(ClassCondition(torch.tensor([7])), ids).std() > 1e-3


def test_models_of_text_need_their_encoder():
    with pytest.raises(InputError, match="llamagen-b"):
        random_pipeline("llamagen-t2i-xl")
