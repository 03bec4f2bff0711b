"""Training of VQ tokenizers and next-token generators, from recipe to a model that loads and draws."""

import json

import pytest
import torch
from safetensors.torch import load_file

import visgen
from visgen.data.scenes.dataset import Scenes
from visgen.errors import InputError
from visgen.tokenizers.vq import VQTokenizer
from visgen.training import train

TOKENIZER = {
    "image_size": 64,
    "codebook_size": 32,
    "code_dim": 4,
    "latent_channels": 8,
    "ch": 8,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "norm_groups": 4,
    "attention": False,
    "mid_blocks": False,
    "patch_size": 8,
}
GENERATOR = {
    "condition": "prompt",
    "hidden_size": 32,
    "depth": 1,
    "num_heads": 2,
    "mlp_size": 32,
    "prefix_rotation": "identity",
}


def recipe(objective, output, steps, **keys):
    common = {"schema": 1, "objective": objective, "output": str(output), "steps": steps, "batch_size": 4}
    every = {"log_every": 1, "sample_every": steps, "checkpoint_every": steps}
    return {**common, **every, "data": {"source": "scenes", "split": "train"}, **keys}


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tokenizer_run(tmp_path_factory):
    options = {"gradient_weight": 0.5, "restart_every": 5, "validation_batches": 1}
    folder = tmp_path_factory.mktemp("vq")
    optimizer = {"lr": 1.0e-2}
    return train(recipe("vq-tokenizer", folder, 60, model=TOKENIZER, options=options, optimizer=optimizer))


@pytest.fixture(scope="module")
def generator_run(tokenizer_run, tmp_path_factory):
    options = {"tokenizer": str(tokenizer_run / "model"), "text_length": 24, "validation_batches": 1}
    folder = tmp_path_factory.mktemp("ar")
    optimizer = {"lr": 1.0e-2}
    return train(
        recipe("next-token-generator", folder, 30, model=GENERATOR, options=options, optimizer=optimizer)
    )


def test_the_tokenizer_learns(tokenizer_run):
    rows = [row for row in log_lines(tokenizer_run) if "loss" in row]
    assert rows[-1]["pixel"] < 0.75 * rows[0]["pixel"]
    assert 1 <= rows[-1]["codebook_perplexity"] <= 32
    assert VQTokenizer.from_pretrained(tokenizer_run / "model").layout.length == 16


def test_the_convolutions_of_another_tokenizer_are_a_start(tokenizer_run, tmp_path):
    source = str(tokenizer_run / "model")
    model = TOKENIZER | {"codebook_size": 16}
    options = {"init_cnn": source, "continuous_steps": 9}
    optimizer = {"lr": 1.0e-9}
    folder = train(
        recipe("vq-tokenizer", tmp_path, 1, model=model, options=options, optimizer=optimizer, ema=None)
    )
    before, after = (
        load_file(run / "model" / "diffusion_pytorch_model.safetensors") for run in (tokenizer_run, folder)
    )
    name = "encoder.down.0.block.0.conv1.weight"
    assert torch.allclose(before[name], after[name], atol=1e-6)
    unlike = {**TOKENIZER, "ch": 12, "latent_channels": 12, "patch_size": 16, "ch_mult": [1]}
    with pytest.raises(InputError, match="no layer of that tokenizer"):
        train(recipe("vq-tokenizer", tmp_path / "b", 1, model=unlike, options={"init_cnn": source}))


def test_the_generator_learns_and_draws_with_any_strategy(generator_run):
    rows = [row for row in log_lines(generator_run) if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"]
    pipe = visgen.load(str(generator_run / "model"))
    pipe.set_progress_bar_config(disable=True)
    plain = pipe("a red circle", seed=3, guidance_scale=2.0)
    assert plain.stats["passes"] == [16]
    other = pipe("a red circle", seed=3, guidance_scale=2.0, strategy="sjd:4")
    assert other.stats["lossless"]
    assert other.settings["strategy"] == "sjd:4"
    greedy = [pipe("a red circle", seed=3, top_k=1, strategy=name) for name in (None, "sjd", "jacobi:4")]
    assert torch.equal(greedy[0].tokens.ids, greedy[1].tokens.ids)
    assert torch.equal(greedy[0].tokens.ids, greedy[2].tokens.ids)


def test_a_trained_generator_becomes_one_of_windows(tokenizer_run, generator_run, tmp_path):
    options = {
        "tokenizer": str(tokenizer_run / "model"),
        "init": str(generator_run / "model"),
        "text_length": 24,
    }
    model = GENERATOR | {"window": 2, "shuffle_blocks": 1}
    folder = train(recipe("next-token-generator", tmp_path, 4, model=model, options=options))
    pipe = visgen.load(str(folder / "model"))
    pipe.set_progress_bar_config(disable=True)
    result = pipe("a red circle", seed=3)
    assert result.stats["passes"] == [4]
    assert result.tokens.ids.shape == (1, 16)


def test_a_tokenizer_of_scales_is_refused(tmp_path):
    options = {"tokenizer": "scenes-var"}
    with pytest.raises(InputError, match="next-token models need a grid"):
        train(recipe("next-token-generator", tmp_path, 1, model=GENERATOR, options=options))


def test_captions_of_scenes_are_the_condition(generator_run):
    pipe = visgen.load(str(generator_run / "model"))
    batch = Scenes("validation").batch(range(2))
    assert pipe.text.encode(batch.captions).input_ids.shape == (2, 24)
