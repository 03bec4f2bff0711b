"""The two real objectives, from recipe to a model that loads and draws, on scenes and on folders."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import visgen
from visgen.data.scenes.dataset import Scenes
from visgen.errors import InputError
from visgen.nn.quantizers.codebook import usage
from visgen.tokenizers.var import VARTokenizer
from visgen.training import train
from visgen.training.recipe import load_recipe
from visgen.training.tokenizer import MultiscaleTokenizerObjective, TokenizerOptions

TOKENIZER = {
    "scales": [1, 2, 4],
    "codebook_size": 32,
    "latent_channels": 4,
    "ch": 8,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "norm_groups": 4,
    "attention": False,
    "mid_blocks": False,
    "patch_size": 8,
}
GENERATOR = {"hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}


def recipe(objective, output, steps=6, **keys):
    common = {"schema": 1, "objective": objective, "output": str(output), "steps": steps, "batch_size": 4}
    every = {"log_every": 1, "sample_every": steps, "checkpoint_every": steps}
    return {**common, **every, "data": {"source": "scenes", "split": "train"}, **keys}


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tokenizer_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    options = {"gradient_weight": 0.5, "object_weight": True, "restart_every": 2, "validation_batches": 1}
    optimizer = {"lr": 1.0e-2}
    steps = recipe("multiscale-tokenizer", folder, 60, model=TOKENIZER, options=options, optimizer=optimizer)
    return train(steps)


def test_tokenizer_learns_and_says_how_the_codebook_does(tokenizer_run):
    rows = [row for row in log_lines(tokenizer_run) if "loss" in row]
    assert rows[-1]["pixel"] < 0.75 * rows[0]["pixel"]
    for row in rows:
        assert 0 < row["codebook_usage"] <= 1
        assert 1 <= row["codebook_perplexity"] <= 32
    evaluation = next(row for row in log_lines(tokenizer_run) if "eval_psnr" in row)
    assert evaluation["eval_psnr"] > 5
    assert (tokenizer_run / "samples/step_000060.png").is_file()
    assert VARTokenizer.from_pretrained(tokenizer_run / "model").pixel_size == 64


def test_dead_codes_come_back():
    objective = MultiscaleTokenizerObjective(
        VARTokenizer(**TOKENIZER),
        TokenizerOptions(restart_every=1, restart_until=1.0),
        steps=10,
    )
    with torch.no_grad():
        objective.model.codebook[1:] = 100.0  # far from everything: only code 0 is ever chosen
    batch = Scenes("train").batch(range(4))
    for _ in range(400):  # 0.99^400 = 0.018, below the margin of 0.03
        found = objective.model(batch.images.float() / 127.5 - 1).quantization
        objective.care.observe(found.residuals, found.ids)
        if usage(objective.care.counts) < 0.1:
            break
    assert usage(objective.care.counts) < 0.1
    values = objective.after_step(0)
    assert values["codes_restarted"] == 31
    assert usage(objective.care.counts) == 1.0
    assert objective.model.codebook.abs().max() < 100


def test_adversarial_term_runs(tmp_path):
    options = {"adversarial": {"weight": 0.1, "start_step": 2, "hidden_size": 8, "num_layers": 1}}
    folder = train(recipe("multiscale-tokenizer", tmp_path, 4, model=TOKENIZER, options=options))
    rows = [row for row in log_lines(folder) if "loss" in row]
    assert "adversarial" not in rows[0]
    assert np.isfinite(rows[-1]["adversarial"])
    assert np.isfinite(rows[-1]["adversary_loss"])


def test_decoder_only_keeps_the_tokens(tokenizer_run, tmp_path):
    options = {"init": str(tokenizer_run / "model"), "decoder_only": True}
    folder = train(recipe("multiscale-tokenizer", tmp_path, 3, options=options))
    before, after = (VARTokenizer.from_pretrained(run / "model") for run in (tokenizer_run, folder))
    images = Scenes("validation").batch(range(4)).images.float() / 127.5 - 1
    assert torch.equal(before.encode(images).ids, after.encode(images).ids)
    assert not torch.equal(before.decoder.conv_out.weight, after.decoder.conv_out.weight)


def test_a_new_decoder_keeps_the_tokens(tokenizer_run, tmp_path):
    options = {"init": str(tokenizer_run / "model"), "decoder_only": True}
    model = {"decoder_sizes": {"ch": 4, "ch_mult": [1, 2, 2], "patch_size": 4}}
    folder = train(recipe("multiscale-tokenizer", tmp_path, 3, model=model, options=options))
    before, after = (VARTokenizer.from_pretrained(run / "model") for run in (tokenizer_run, folder))
    assert len(before.decoder.up) == 2 and len(after.decoder.up) == 3
    images = Scenes("validation").batch(range(4)).images.float() / 127.5 - 1
    tokens = after.encode(images)
    assert torch.equal(before.encode(images).ids, tokens.ids)
    assert after.decode(tokens).shape == images.shape


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"codebook_size": 64}, "model.codebook_size differs"),
        ({"decoder_sizes": {"ch": 4}}, "16 times"),
        ({"decoder_sizes": {"depth": 4}}, "holds 'depth'"),
    ],
)
def test_what_else_differs_from_the_start_is_refused(tokenizer_run, tmp_path, model, message):
    options = {"init": str(tokenizer_run / "model")}
    with pytest.raises(InputError, match=message):
        train(recipe("multiscale-tokenizer", tmp_path, 3, model=model, options=options))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_generator_on_captions_makes_a_pipeline(tokenizer_run, tmp_path, optimizer):
    options = {"tokenizer": str(tokenizer_run / "model"), "validation_batches": 1, "sampling": {"top_k": 4}}
    options["adherence_scenes"] = 8
    folder = train(
        recipe(
            "next-scale-generator",
            tmp_path,
            model={"condition": "prompt", "modulation": "constant", **GENERATOR},
            options=options,
            optimizer={"name": optimizer, "lr": 3.0e-3},
        )
    )
    evaluation = next(row for row in log_lines(folder) if "eval_loss" in row)
    assert 0 < evaluation["eval_loss"] < 5 and 0 <= evaluation["eval_adherence"] <= 1
    pipe = visgen.load(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.sampling.top_k == 4
    assert pipe("a red circle", seed=0).images[0].size == (64, 64)
    assert not pipe.text.unknown_words("two small yellow stars at night")


def write_images(folder, count=6):
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for index in range(count // 2):
            pixels = rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def test_both_train_on_a_folder_of_classes(tmp_path):
    write_images(tmp_path / "images")
    data = {"source": "folder", "root": str(tmp_path / "images"), "image_size": 64}
    first = train(recipe("multiscale-tokenizer", tmp_path / "t", 2, model=TOKENIZER, data=data))
    options = {"tokenizer": str(first / "model")}
    second = train(
        recipe("next-scale-generator", tmp_path / "g", 2, model=GENERATOR, options=options, data=data)
    )
    pipe = visgen.load(second / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.generator.config.num_classes == 2
    assert pipe([0, 1], seed=0).images[1].size == (64, 64)


def test_captions_beside_the_files(tokenizer_run, tmp_path):
    write_images(tmp_path / "images")
    for path in (tmp_path / "images").rglob("*.png"):
        path.with_suffix(".txt").write_text(f"A {path.parent.name[:-1]}, number {path.stem}.")
    data = {"source": "folder", "root": str(tmp_path / "images"), "image_size": 64}
    model = {"condition": "prompt", **GENERATOR}
    options = {"tokenizer": str(tokenizer_run / "model"), "text_length": 8}
    folder = train(recipe("next-scale-generator", tmp_path / "g", 2, model=model, options=options, data=data))
    known = visgen.load(folder / "model").text.known_words()
    assert known == ["0", "1", "2", "a", "cat", "dog", "number"]


def write_text_encoder(folder):
    """A T5 encoder of transformers with random weights, as small as it gets."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    vocabulary = {word: index for index, word in enumerate(("<pad>", "<unk>", *Scenes("train").words()))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    sizes = {"d_model": 12, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)


def test_generator_on_a_text_encoder(tokenizer_run, tmp_path):
    write_text_encoder(tmp_path / "encoder")
    model = {"condition": "text", **GENERATOR}
    options = {
        "tokenizer": str(tokenizer_run / "model"),
        "text_encoder": str(tmp_path / "encoder"),
        "text_length": 26,
    }
    folder = train(recipe("next-scale-generator", tmp_path / "g", 3, model=model, options=options))
    pipe = visgen.load(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.generator.config.text_dim == 12
    images = pipe(["a red circle", "a blue star", "a red circle"], seed=0).images
    assert [image.size for image in images] == [(64, 64)] * 3


@pytest.mark.parametrize(
    "change, message",
    [
        ({"options": {"tokenizer": "no-such-model"}}, "no-such-model"),
        ({"options": {"tokenizr": "x"}}, "tokenizer"),
        ({"model": {"condition": "text"}}, "text_encoder"),
        ({"model": {"condition": "class"}}, "labels"),
    ],
)
def test_bad_generator_recipes_are_named(tokenizer_run, tmp_path, change, message):
    keys = {"options": {"tokenizer": str(tokenizer_run / "model")}, "model": {"condition": "prompt"}}
    keys["model"] |= GENERATOR
    with pytest.raises(InputError, match=message):
        train(
            recipe(
                "next-scale-generator",
                tmp_path,
                **(keys | {k: v | (GENERATOR if k == "model" else {}) for k, v in change.items()}),
            )
        )


def test_wrong_image_size_is_named(tmp_path):
    write_images(tmp_path / "images")
    data = {"source": "folder", "root": str(tmp_path / "images"), "image_size": 32}
    with pytest.raises(InputError, match="32"):
        train(recipe("multiscale-tokenizer", tmp_path / "t", model=TOKENIZER, data=data))


@pytest.mark.parametrize("name", ["scenes-var-tokenizer", "scenes-var"])
def test_shipped_recipes_are_valid(name):
    from pathlib import Path

    found = load_recipe(Path(__file__).parents[2] / f"recipes/{name}.yaml")
    assert found.output == f"runs/{name}"
