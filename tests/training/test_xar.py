"""Training of xAR: from a recipe to a pipeline that draws, resumption, options, and recipes that build."""

import json
from pathlib import Path

import pytest
import torch

import visgen
from visgen.errors import InputError
from visgen.generators.xar import XARGenerator
from visgen.nn.building import construct
from visgen.nn.entity_sampling import EntitySampling
from visgen.nn.flow import SigmaLaw
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.tokenizers.kl import KLTokenizer
from visgen.training import train
from visgen.training.generator import shipped_tokenizer
from visgen.training.recipe import load_recipe
from visgen.training.stream import build_source
from visgen.training.xar import XARObjective, entity_groups

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(RECIPES.glob("scenes-xar*.yaml"))
ABLATIONS = sorted((RECIPES / "ablations").glob("xar-*.yaml"))
NETWORK = {
    "kind": "AutoencoderKL",
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
MODEL = {
    "condition": "prompt",
    "entities": {"kind": "cell", "size": 4},
    "hidden_size": 16,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "num_heads": 2,
    "mlp_size": 24,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("kl")
    model = KLTokenizer(image_size=64, network=NETWORK, scaling_factor=2.0)
    ReconstructPipeline(model).save_pretrained(folder)
    return str(folder)


def recipe(output, steps, tokenizer, **keys):
    options = {"tokenizer": tokenizer, "sampling": {"num_inference_steps": 5, "guidance_scale": 2.0}}
    options |= {"sample_steps": 3, **keys.pop("options", {})}
    common = {"schema": 1, "objective": "xar-generator", "output": str(output), "steps": steps}
    every = {"batch_size": 4, "log_every": 1, "sample_every": 4, "checkpoint_every": 2}
    data = {"source": "scenes", "split": "train"}
    return {**common, **every, "data": data, "model": MODEL, "options": options, **keys}


def lines(folder, key):
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row for row in rows if key in row]


def objective(tokenizer, **keys):
    read = load_recipe(recipe("unused", 1, tokenizer, **keys))
    return XARObjective.from_recipe(read, build_source(read.data)).train()


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    options = {"validation_batches": 1, "adherence_scenes": 2}
    optimizer = {"lr": 1.0e-2}
    folder = tmp_path_factory.mktemp("xar") / "run"
    return train(recipe(folder, 8, tokenizer, options=options, optimizer=optimizer, precision="bf16"))


def test_it_learns_and_tells_the_loss_of_each_entity(run):
    losses = [row["loss"] for row in lines(run, "loss")]
    assert losses[-1] < losses[0]
    scored = lines(run, "eval_loss")
    assert [row["step"] for row in scored] == [4, 8]
    entities = [scored[-1][f"eval_loss_entity_{e}"] for e in range(4)]
    assert sum(entities) / 4 == pytest.approx(scored[-1]["eval_loss"], rel=1e-4)
    assert 0 <= scored[-1]["eval_adherence"] <= 1
    assert (run / "samples" / "step_000008.png").is_file()


def test_the_export_draws_with_the_recipes_sampling(run, tokenizer):
    pipe = visgen.load(run / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.sampling == EntitySampling(num_inference_steps=5, guidance_scale=2.0)
    assert pipe("a red circle", seed=0, num_inference_steps=3).images[0].size == (64, 64)
    own, base = (visgen.load(name, task="reconstruct").tokenizer for name in (run / "model", tokenizer))
    assert all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), base.state_dict().values()))


def test_a_resumed_run_is_an_uninterrupted_one(tokenizer, tmp_path):
    common = {"sample_every": 0, "ema": None}
    whole = train(recipe(tmp_path / "whole", 4, tokenizer, **common))
    train(recipe(tmp_path / "cut", 2, tokenizer, **common, schedule={"name": "constant"}))
    cut = train(recipe(tmp_path / "cut", 4, tokenizer, **common))
    first, second = (XARGenerator.from_pretrained(folder / "model/generator") for folder in (whole, cut))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


def test_the_posterior_is_drawn_anew_and_in_full_precision(tokenizer):
    made = objective(tokenizer)
    batch = build_source({"source": "scenes", "split": "train"}).batch(range(2))
    first = made.latents(batch.images, 1).latents
    assert torch.equal(first, made.latents(batch.images, 1).latents)
    assert not torch.equal(first, made.latents(batch.images, 2).latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(first, made.latents(batch.images, 1).latents)


def test_the_options_of_noise_reach_the_loss(tokenizer):
    batch = build_source({"source": "scenes", "split": "train"}).batch(range(4))
    torch.manual_seed(0)
    plain = objective(tokenizer)
    seen = {}

    def spy(tokens, condition, **options):
        seen.update(options)
        return loss(tokens, condition, **options)

    loss, plain.model.loss = plain.model.loss, spy
    official = plain.loss(batch, 0, 7)["loss"].item()
    assert (seen["law"], seen["context_noise"]) == (SigmaLaw(), True)
    torch.manual_seed(0)
    other = objective(tokenizer, options={"context_noise": False, "time": {"high_share": 1.0}})
    loss, other.model.loss = other.model.loss, spy
    assert other.loss(batch, 0, 7)["loss"].item() != official
    assert (seen["law"], seen["context_noise"]) == (SigmaLaw(high_share=1.0), False)


def test_a_trained_generator_is_a_start(run, tokenizer):
    init = {"init": str(run / "model")}
    made = objective(tokenizer, options=init)
    trained = XARGenerator.from_pretrained(run / "model/generator")
    assert torch.equal(made.model.pred.weight, trained.pred.weight)
    with pytest.raises(InputError, match=r"model.mlp_size=32 is 24 in options.init"):
        objective(tokenizer, options=init, model=MODEL | {"mlp_size": 32})


def test_a_tokenizer_of_ids_is_refused():
    with pytest.raises(InputError, match="is a VQTokenizer; xAR needs latents on a grid"):
        objective("scenes-vq")


def test_a_shipped_tokenizer_is_referred_to():
    assert shipped_tokenizer("scenes-vq") == "scenes-vq/tokenizer"
    assert shipped_tokenizer("scenes-ar") == "scenes-vq/tokenizer"  # which refers to it itself
    assert shipped_tokenizer("runs/scenes-vq/model") is None


def test_many_entities_are_told_in_runs():
    assert entity_groups((4, 4)) == {"entity_0": slice(0, 4), "entity_1": slice(4, 8)}
    groups = entity_groups((1,) * 64)
    assert len(groups) == 8
    assert groups["entities_8-15"] == slice(8, 16)
    assert entity_groups((1, 4, 16))["entity_2"] == slice(5, 21)


@pytest.mark.parametrize("path", [*SHIPPED, *ABLATIONS], ids=lambda path: path.stem)
def test_the_recipes_make_models_small_enough_to_ship(path):
    read = load_recipe(path)
    shapes = {"grid": (8, 8), "latent_channels": 16, "text_length": 24, "text_vocab_size": 90}
    with torch.device("meta"):
        model = construct(XARGenerator, read.model | shapes, "model")
    assert sum(p.numel() for p in model.parameters()) < 2.5e6
    XARObjective.options_class(**{**read.options, "time": SigmaLaw(**read.options["time"])})
    EntitySampling(**read.options["sampling"])


def test_ablations_differ_in_their_entities_alone():
    recipes = [load_recipe(path).to_dict() for path in ABLATIONS]
    assert {path.stem for path in ABLATIONS} == {
        f"xar-{kind}" for kind in ("patch", "cell2", "cell4", "subsample2", "scale", "image")
    }
    for one in recipes:
        assert one.pop("output").startswith("runs/ablations/xar-")
        one["model"].pop("entities")
    assert all(one == recipes[0] for one in recipes)
