"""Random weights stand in the architecture of the official files."""

import json
import re
from pathlib import Path

import pytest
import torch

from visgen.checkpoints.catalogue import CATALOGUE, official
from visgen.checkpoints.var import convert_transformer
from visgen.errors import InputError
from visgen.generators.var import VARTransformer
from visgen.pipelines import random_weights
from visgen.pipelines.random_weights import architecture, random_pipeline

SHAPES = json.loads((Path(__file__).parents[1] / "golden/var/official_shapes.json").read_text())
DRAWING = [entry for entry in CATALOGUE.values() if "generator" in entry.files]


def on_meta(config):
    with torch.device("meta"):
        return VARTransformer(**config)


def test_var_d16_has_the_shapes_of_the_official_file():
    """The golden list names the first block only; the others are like it."""
    own = on_meta(architecture(official("var-d16"))).state_dict()
    found = {key: list(t.shape) for key, t in own.items() if not re.match(r"blocks\.(?!0\.)", key)}
    assert found == convert_transformer(dict(SHAPES["var_d16"]))


@pytest.mark.parametrize("entry", DRAWING, ids=lambda entry: entry.alias)
def test_sizes_are_those_of_the_catalogue(entry):
    """The download holds 4 bytes a parameter: the transformer's and the tokenizer's 109 million."""
    parameters = sum(p.numel() for p in on_meta(architecture(entry)).parameters())
    assert parameters * 4 == pytest.approx(entry.size_bytes - 4 * 108.95e6, rel=0.01)


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
