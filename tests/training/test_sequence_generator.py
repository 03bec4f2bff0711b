"""Next-token generators over the 1-D tokens of a FlexTok: from recipe to a model that draws any length."""

import json

import pytest
import torch

import visgen
from tests.pipelines.sequences import flextok
from tests.training.test_next_token import GENERATOR, recipe
from visgen.errors import InputError
from visgen.tokenizers.tokens import Sequence1D
from visgen.training import train

SIZES = {"width": 16, "depth": 1, "head_dim": 8, "patch_size": 2, "position_sizes": (8, 8)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Of 64 pixels, the scenes' size, and 8 tokens."""
    folder = tmp_path_factory.mktemp("flextok")
    flextok(image_size=64, encoder_sizes=SIZES, decoder_sizes=SIZES).save_pretrained(folder)
    return str(folder)


def run(tokenizer, folder, steps=25, model=None, **options):
    options = {"tokenizer": tokenizer, "text_length": 24, **options}
    model = GENERATOR | (model or {})
    keys = {"model": model, "options": options, "optimizer": {"lr": 1.0e-2}}
    return train(recipe("next-token-generator", folder, steps, **keys))


@pytest.fixture(scope="module", params=["prefix", "cross"])
def generator(request, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    steps = {"decoding": {"num_inference_steps": 1}, "validation_batches": 1, "adherence_scenes": 4}
    return run(tokenizer, folder, model={"text_conditioning": request.param}, **steps)


def test_it_learns_and_is_scored(generator):
    rows = [json.loads(line) for line in (generator / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]
    assert 0 <= rows[-1]["eval_adherence"] <= 1
    assert rows[-1]["eval_loss"] < losses[0]


def test_the_exported_pipeline_draws_any_length(generator, tokenizer):
    pipe = visgen.load(str(generator / "model"))
    pipe.set_progress_bar_config(disable=True)
    assert pipe.generator.layout == pipe.tokenizer.layout == Sequence1D(8)
    whole, part = pipe("a red circle", seed=3), pipe("a red circle", seed=3, num_tokens=2)
    assert torch.equal(part.tokens.ids, whole.tokens.ids[:, :2])
    assert whole.images[0].size == (64, 64)
    assert pipe.tokenizer.sampling.num_inference_steps == 3  # sample grids took fewer, the export does not


def test_decoding_is_checked_when_the_recipe_is_read(tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"unknown key 'decoding.steps'"):
        run(tokenizer, tmp_path / "a", decoding={"steps": 3})
    with pytest.raises(InputError, match="a VQTokenizer decodes without noise"):
        run("scenes-vq", tmp_path / "b", decoding={"num_inference_steps": 3})
