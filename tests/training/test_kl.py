"""Training of the continuous tokenizer: its start, what is frozen, the losses, a run, bad recipes."""

import json
from pathlib import Path

import pytest
import torch

import visgen
from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.tokenizers.kl import KLTokenizer
from visgen.tokenizers.vq import VQTokenizer
from visgen.training import train
from visgen.training.kl import KLObjective, KLOptions, keep_features, latent_std
from visgen.training.recipe import load_recipe
from visgen.training.reconstruction import to_pixels, validation_batches, validation_source

CNN = {"ch": 8, "ch_mult": (1, 1), "num_res_blocks": 1, "norm_groups": 4, "attention": False, "patch_size": 4}
VQ = {"image_size": 64, "codebook_size": 16, "code_dim": 8, "latent_channels": 8, **CNN}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vq")
    VQTokenizer(**VQ).save_pretrained(folder)
    return str(folder)


def recipe(output, model=None, steps=3, **options):
    return {
        "objective": "kl-tokenizer",
        "output": str(output),
        "steps": steps,
        "batch_size": 4,
        "data": {"source": "scenes", "split": "train"},
        "model": model or {},
        "options": {"validation_batches": 1} | options,
        "log_every": 1,
        "sample_every": steps,
        "optimizer": {"lr": 1e-2},
    }


class Pictures:
    image_size = 64


def objective(base, tmp_path, **options):
    torch.manual_seed(1)
    options = {"init_cnn": base, "freeze_cnn": True} | options
    made = KLObjective.from_recipe(load_recipe(recipe(tmp_path, **options)), Pictures())
    made.freeze()
    return made.train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator))


def test_it_starts_as_the_convolutions_are(base, tmp_path, batch):
    model, vq = objective(base, tmp_path).model.eval(), VQTokenizer.from_pretrained(base)
    images = to_pixels(batch.images)
    law, unit = model.posterior(images), vq.latents(images)
    assert torch.allclose(law.mean, unit * 8**0.5, atol=1e-5)
    assert torch.equal(law.logvar, torch.full_like(law.logvar, -4.0))
    with torch.no_grad():
        assert torch.allclose(model.decode_features(law.mean), vq.decode_features(unit), atol=1e-4)


@pytest.mark.parametrize("channels", [5, 11])
def test_other_numbers_of_channels_keep_what_they_can(channels):
    network = {"kind": "conv", **{k: v for k, v in VQ.items() if k != "codebook_size"}}
    model = KLTokenizer(image_size=64, network=network, latent_channels=channels)
    keep_features(model)
    features = torch.randn(1, 8, 2, 2)
    mean = model.moments(features)[:, :channels]
    kept = min(channels, 8)
    assert torch.allclose(mean[:, :kept], features[:, :kept], atol=1e-6) and not mean[:, kept:].any()


def test_frozen_convolutions_cost_no_gradients(base, tmp_path, batch):
    made = objective(base, tmp_path)
    names = {name for name, _ in made.trained()}
    parts = ("quant_conv", "post_quant_conv")
    assert names == {f"model.{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    made.loss(batch, 0, 5)["loss"].backward()
    assert all(p.grad is None for p in made.model.autoencoder.parameters())
    assert all(p.grad.abs().sum() > 0 for _, p in made.trained())
    free = objective(base, tmp_path, freeze_cnn=False)
    free.loss(batch, 0, 5)["loss"].backward()
    assert free.model.autoencoder.cnn.encoder.conv_in.weight.grad.abs().sum() > 0


def test_the_loss_is_the_sum_of_its_terms(base, tmp_path, batch):
    """Nats are of a whole image, as in LDM, and divided by its 64 · 64 · 3 values."""
    made = objective(base, tmp_path, kl_weight=0.01, gradient_weight=0.5)
    values, again, other = made.loss(batch, 0, 5), made.loss(batch, 3, 5), made.loss(batch, 0, 6)
    wanted = values["pixel"] + 0.5 * values["gradient"] + 0.01 * values["kl"] / (64 * 64 * 3)
    assert torch.allclose(values["loss"], wanted)
    law = made.model.posterior(to_pixels(batch.images))
    assert torch.allclose(values["kl"], law.kl().mean(), rtol=1e-5)
    assert torch.equal(values["loss"], again["loss"]), "draws follow from the seed alone"
    assert not torch.equal(values["loss"], other["loss"])


def test_the_divergence_widens_narrow_posteriors(base, tmp_path, batch):
    directions = []
    for weight in (0.0, 10.0):
        made = objective(base, tmp_path, kl_weight=weight)
        made.loss(batch, 0, 5)["loss"].backward()
        directions.append(float(made.model.quant_conv.bias.grad[8:].sum()))
    assert directions[1] < min(0, directions[0])


@pytest.mark.parametrize("frozen", [True, False])
def test_a_discriminator_weighs_against_the_last_weight_that_learns(base, tmp_path, batch, frozen):
    gan = {"weight": 0.1, "hidden_size": 8, "num_layers": 1}
    made = objective(base, tmp_path, freeze_cnn=frozen, adversarial=gan)
    values = made.loss(batch, 0, 5)
    assert values["adversarial_weight"] > 0 and torch.isfinite(values["loss"])
    assert torch.isfinite(made.adversary_loss(batch, 0, 5)["loss"])


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    options = {"init_cnn": base, "freeze_cnn": True, "kl_weight": 1e-3, "card": {"licence": "none"}}
    return train(recipe(tmp_path_factory.mktemp("run"), {"latent_channels": 6}, **options))


def test_a_run_makes_a_pipeline_of_unit_variance(base, run):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(row["kl"] > 0 and row["posterior_std"] > 0 for row in rows if "loss" in row)
    scores = next(row for row in rows if "eval_psnr" in row)
    assert {"eval_psnr_drawn", "eval_kl", "eval_posterior_std", "eval_mean_std"} <= scores.keys()
    pipe = visgen.load(run / "model")
    model, before = pipe.tokenizer, VQTokenizer.from_pretrained(base)
    assert pipe.card["licence"] == "none" and model.config.latent_channels == 6
    kept, state = model.autoencoder.cnn.state_dict(), before.state_dict()
    assert all(torch.equal(kept[k], t) for k, t in state.items() if not k.startswith("vq."))
    held_out = validation_batches(validation_source(load_recipe(run / "recipe.yaml"), 1), 1)
    assert model.config.scaling_factor == pytest.approx(1 / latent_std(model, held_out), rel=1e-4)
    noise = Noise.per_image([(0, row) for row in range(64)])
    tokens = model.encode(to_pixels(held_out[0].images), noise=noise)
    assert float(tokens.latents.std()) == pytest.approx(1.0, abs=0.01)


def test_an_autoencoder_of_diffusers_learns(tmp_path):
    network = {
        "kind": "AutoencoderKL", "block_out_channels": [8, 8], "layers_per_block": 1, "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 4,
    }  # fmt: skip
    model = {"image_size": 64, "network": network}
    folder = train(recipe(tmp_path, model, steps=2) | {"sample_every": 0})
    model = visgen.load(folder / "model").tokenizer
    assert model.downsampling == 2 and model.config.scaling_factor != 0.2325


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ({}, {"freeze_cnn": True}, "freeze_cnn needs options.init_cnn"),
        ({}, {"validation_batches": 0}, "validation_batches=0"),
        ({}, {"kl_weight": -1.0}, "kl_weight"),
        ({}, {"heat": 1}, "heat"),
        ({"network": {"kind": "conv"}}, {"init_cnn": "BASE"}, "leave model.network out"),
        ({"image_size": 32}, {"init_cnn": "BASE"}, "image_size=64"),
        ({}, {"init_cnn": "scenes-var"}, "VARTokenizer; name a VQTokenizer"),
        ({}, {"init_cnn": "no-such-model"}, "no-such-model"),
    ],
)
def test_recipes_that_do_not_fit(base, tmp_path, model, options, told):
    options = {name: base if value == "BASE" else value for name, value in options.items()}
    with pytest.raises(InputError, match=told):
        KLObjective.from_recipe(load_recipe(recipe(tmp_path, model, **options)), Pictures())


def test_the_shipped_recipe_is_valid():
    found = load_recipe(Path(__file__).parents[2] / "recipes/scenes-kl.yaml")
    options = KLOptions(**found.options)
    assert options.freeze_cnn and options.init_cnn == "scenes-vq"
