"""Training from token shards: what the source gives, and that the loss is that of the images."""

import json

import pytest
import torch

from tests.pipelines.conftest import SCALES, make_tokenizer, random_picture
from visgen.data.batch import Batch
from visgen.data.folder import ImageFolder
from visgen.errors import InputError
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.token_folder import TokenFolder
from visgen.pipelines.token_shards import TokenOrigin, read_header
from visgen.pipelines.tokenize import tokenize_folder
from visgen.tokenizers.tokens import Grid, ImageTokens, Scales
from visgen.training import train
from visgen.training.generator import NextScaleObjective
from visgen.training.recipe import load_recipe
from visgen.training.stream import BatchPlan, build_source, load_batch
from visgen.training.token_source import TokenShards

MODEL = {"hidden_size": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twelve pictures of 16×16 in two classes, with captions, a tokenizer's folder, and the tokens."""
    root = tmp_path_factory.mktemp("made")
    lines = []
    for n in range(12):
        name = f"{'ab'[n % 2]}/{n:02d}.png"
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        random_picture(16, 16, seed=n).save(root / "images" / name)
        lines.append(json.dumps({"file_name": name, "text": [f"Red {n}", "blue"]}))
    pipe = ReconstructPipeline(make_tokenizer())
    pipe.save_pretrained(root / "model")
    tokenize_folder(pipe, root / "images", root / "tokens", shard_size=5)
    (root / "captions").mkdir()
    (root / "captions" / "captions.jsonl").write_text("\n".join(lines))
    return root


def recipe(made, data, output, **keys):
    common = {"schema": 1, "objective": "next-scale-generator", "output": str(output), "batch_size": 4}
    options = {"tokenizer": str(made / "model" / "tokenizer"), **keys.pop("options", {})}
    every = {"steps": 3, "log_every": 1, "sample_every": 3, "checkpoint_every": 3}
    return {**common, **every, "data": data, "model": MODEL, "options": options, **keys}


def images_of(made):
    return {"source": "folder", "root": str(made / "images"), "image_size": 16, "augment": False}


def tokens_of(made, **more):
    return {"source": "tokens", "path": str(made / "tokens"), **more}


def test_it_gives_what_the_shards_hold(made):
    source, images = TokenShards(made / "tokens"), ImageFolder(made / "images", 16, augment=False)
    assert source.names == images.files and (source.condition, source.classes) == ("class", ["a", "b"])
    batch = source.batch([11, 0, 5])
    assert isinstance(batch, Batch) and len(batch) == 3 and batch.labels == images.batch([11, 0, 5]).labels
    pixels = images.batch([11, 0, 5]).images.float() / 127.5 - 1
    singly = torch.cat([make_tokenizer().encode(pixel[None]).ids for pixel in pixels])
    assert torch.equal(batch.tokens.ids, singly) and batch.tokens.layout == Scales.square(SCALES)


def test_the_first_loss_is_that_of_the_images(made, tmp_path):
    losses = {}
    for name, data in (("images", images_of(made)), ("tokens", tokens_of(made))):
        run = load_recipe(recipe(made, data, tmp_path / name))
        source = build_source(run.data)
        torch.manual_seed(run.seed)
        objective = NextScaleObjective.from_recipe(run, source).train()
        batch = load_batch(source, BatchPlan(source.length, 4, run.seed), 0)
        if name == "tokens":
            objective.tokenizer.encode = None  # it must not run
        losses[name] = objective.loss(batch, 0, noise_seed=7)["loss"]
    assert losses["tokens"] > 0 and torch.equal(losses["images"], losses["tokens"])


def test_a_generator_trains_from_tokens(made, tmp_path):
    data = tokens_of(made, validation_fraction=0.25)
    folder = train(recipe(made, data, tmp_path / "run", options={"validation_batches": 1}))
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert [row["eval_loss"] > 0 for row in rows if "eval_loss" in row] == [True]
    assert (folder / "model" / "model_index.json").is_file()


def test_captions_of_the_folder_that_was_tokenized(made):
    source = TokenShards(made / "tokens", captions=made / "captions")
    assert source.condition == "caption" and source.classes is None
    assert source.words()[-2:] == ("blue", "red")
    assert [source.batch([1], epoch=epoch).captions for epoch in (0, 1)] == [["Red 2"], ["blue"]]
    assert TokenShards(made / "tokens", "class", captions=made / "captions").batch([0]).captions is None


def test_splits_are_those_of_the_folder(made):
    parts = []
    for split in ("train", "validation"):
        images = ImageFolder(made / "images", 16, split=split, validation_fraction=0.3)
        tokens = TokenShards(made / "tokens", split=split, validation_fraction=0.3)
        assert tokens.names == images.files
        parts.append(tokens.length)
    assert parts == [8, 4]


def write(folder, tokens, names, **known):
    origin = TokenOrigin("toy", "ab", "float32")
    with TokenFolder(folder) as place:
        place.claim(origin, {"source": "x", "shard_size": 2, "batch_size": 1})
        for number, (one, name) in enumerate(zip(tokens, names, strict=True)):
            place.write(number, name, one, origin, **{k: v[number] for k, v in known.items()})
        place.finish(len(tokens))
    return folder


def ids(rows, layout=None, **more):
    layout = layout or Grid(1, 3)
    return ImageTokens(layout, ids=torch.arange(rows * layout.length).view(rows, -1), **more)


def test_captions_and_labels_of_the_shards(tmp_path):
    known = {"captions": [["one", "Two"], ["three"]], "labels": [[2, 0], [1]]}
    write(tmp_path / "a", [ids(2), ids(1)], [["x", "y"], ["z"]], **known)
    assert read_header(tmp_path / "a" / "shard-00001.safetensors").captions == ("three",)
    source = TokenShards(tmp_path / "a")
    assert source.batch([2, 1]).captions == ["three", "Two"] and source.words() == ("one", "three", "two")
    labelled = TokenShards(tmp_path / "a", "class")
    assert labelled.classes == ["0", "1", "2"] and labelled.batch([0, 2]).labels == [2, 1]


def test_sub_codes(tmp_path):
    tokens = ImageTokens(Grid(1, 2), ids=torch.arange(8).view(2, 2, 2))
    source = TokenShards(write(tmp_path / "a", [tokens], [["x", "y"]]))
    assert source.batch([1, 0]).tokens.ids.tolist() == [[[4, 5], [6, 7]], [[0, 1], [2, 3]]]


def test_what_generators_cannot_learn(tmp_path):
    latents = ImageTokens(Grid(1, 3), latents=torch.zeros(1, 3, 2))
    with pytest.raises(InputError, match="holds latents"):
        TokenShards(write(tmp_path / "latents", [latents], [["x"]]))
    masked = ids(1, mask=torch.tensor([[True, False, True]]))
    with pytest.raises(InputError, match="'x' has tokens left out"):
        TokenShards(write(tmp_path / "masked", [masked], [["x"]])).batch([0])
    mixed = write(tmp_path / "mixed", [ids(1), ids(1, Grid(1, 2))], [["x"], ["y"]])
    with pytest.raises(InputError, match="another layout"):
        TokenShards(mixed).batch([1])
    with pytest.raises(InputError, match="no caption each; name the folder"):
        TokenShards(mixed, "caption")
    with pytest.raises(InputError, match="no class each; tokenize"):
        TokenShards(mixed, "class")
    with pytest.raises(InputError, match="holds no tokens"):
        TokenShards(tmp_path)


def test_other_weights_are_refused(made, tmp_path):
    other = make_tokenizer()
    with torch.no_grad():
        other.codebook[0] += 1
    other.save_pretrained(tmp_path / "other")
    options = {"tokenizer": str(tmp_path / "other")}
    with pytest.raises(InputError, match="made by other weights"):
        train(recipe(made, tokens_of(made), tmp_path / "run", options=options))


def test_tokens_of_lower_precision_know_their_tokenizer(made, tmp_path):
    pipe = ReconstructPipeline(make_tokenizer()).to(torch.bfloat16)
    tokenize_folder(pipe, made / "images", tmp_path / "half", shard_size=12)
    source = TokenShards(tmp_path / "half")
    assert source.origin.dtype == "bfloat16"
    source.check_made_by(make_tokenizer())


def test_a_tokenizer_needs_images(made, tmp_path):
    keys = {"objective": "multiscale-tokenizer", "options": {}, "model": {}}
    with pytest.raises(InputError, match="needs images, not tokens"):
        train({**recipe(made, tokens_of(made), tmp_path / "run"), **keys})
