"""SEED's objectives, from recipe to models that load, encode and draw."""

import json

import pytest
import torch
from safetensors.torch import save_file

from visgen.data.scenes.dataset import Scenes
from visgen.errors import InputError
from visgen.tokenizers.renderers.flow import FlowRenderer
from visgen.tokenizers.seed import SEEDPass, SEEDTokenizer
from visgen.tokenizers.seed_contrastive import SEEDContrastive
from visgen.tokenizers.vq import VQTokenizer
from visgen.training import train
from visgen.training.recipe import load_recipe
from visgen.training.seed import SEEDOptions, SEEDTokenizerObjective, distillation_losses, weighted_sum
from visgen.training.seed_contrastive import SEEDContrastiveObjective
from visgen.training.seed_heads import AuxiliaryHeads, place_queries
from visgen.training.seed_probe import probe_accuracy, ridge_accuracy
from visgen.training.seed_renderer import SEEDRendererObjective
from visgen.training.seed_targets import CLIPEmbedding, SceneEmbedding

ENCODER = {
    "image_size": 64,
    "patch_size": 16,
    "vision_width": 16,
    "vision_depth": 1,
    "vision_heads": 2,
    "vision_mlp": 32,
    "hidden_size": 16,
    "qformer_depth": 1,
    "num_heads": 2,
    "mlp_size": 32,
    "num_queries": 6,
}
TOKENIZER = {
    **ENCODER,
    "codebook_size": 32,
    "code_dim": 4,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "head_sizes": [8],
}
RENDERER = {"hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_size": 16, "condition_tokens": 4}
CODEC = {
    "image_size": 64,
    "ch": 4,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "norm_groups": 2,
    "patch_size": 8,
    "attention": False,
    "mid_blocks": False,
    "codebook_size": 8,
    "code_dim": 4,
    "latent_channels": 4,
}
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "projection_dim": 6,
}


def recipe(objective, output, steps=4, **keys):
    common = {"schema": 1, "objective": objective, "output": str(output), "steps": steps, "batch_size": 4}
    every = {"log_every": 1, "sample_every": steps, "checkpoint_every": steps}
    return {**common, **every, "data": {"source": "scenes", "split": "train"}, **keys}


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def images():
    return Scenes("train").batch(range(256)).images


@pytest.fixture(scope="module")
def target():
    found = SceneEmbedding(2)
    found.measure(Scenes("train"))
    return found


@pytest.fixture(scope="module")
def tokenizer_run(tmp_path_factory):
    options = {"target": {"grid": 2}, "readout_weight": 0.5, "continuous_steps": 2, "restart_every": 2}
    options |= {"validation_batches": 1, "probe_images": 64}
    folder = tmp_path_factory.mktemp("seed")
    return train(recipe("seed-tokenizer", folder, model=TOKENIZER, options=options))


def test_a_tokenizer_is_trained_scored_and_saved(tokenizer_run):
    rows = log_lines(tokenizer_run)
    trained = [row for row in rows if "loss" in row]
    assert {"vq", "mse", "cosine", "readout", "codebook_usage"} <= trained[0].keys()
    assert trained[0]["loss"] == pytest.approx(
        0.5 * trained[0]["mse"] + 2 * trained[0]["cosine"] + 0.5 * trained[0]["readout"], rel=1e-4
    )  # nothing is quantised yet
    scores = next(row for row in rows if "eval_cosine" in row)
    assert scores.keys() >= {"eval_explained", "eval_codebook_used", "eval_probe_colour", "eval_probe_shape"}
    model = SEEDTokenizer.from_pretrained(tokenizer_run / "model")
    assert model.config.embedding_dim == 4 * 30
    assert "heads" not in " ".join(model.state_dict())


def test_a_scene_embedding_says_what_is_where(target):
    assert target.dim == 120
    scene = Scenes("validation", balanced=True)
    cells = target(scene.batch(range(8)).images.float() / 127.5 - 1).view(8, 4, 30)
    assert cells.isfinite().all() and (cells[:, :, 21:] - cells[:, :1, 21:]).std(1).max() < 2.0
    for row, one in enumerate(scene.batch(range(8)).scenes):
        for thing in one.objects:
            column, line = min(int(thing.x // 32), 1), min(int(thing.y // 32), 1)
            centre = max(abs(thing.x - 32), abs(thing.y - 32)) > 8
            if one.count == 1 and centre:
                assert int(cells[row, :, 0].argmax()) == 2 * line + column


def test_a_scene_embedding_has_unit_variance_where_it_was_measured(images, target):
    cells = target(images.float() / 127.5 - 1).view(len(images), -1, 30)
    assert torch.allclose(cells.mean(0), torch.zeros(4, 30), atol=1e-3)
    assert torch.allclose(cells.square().mean((0, 1)).sqrt(), torch.ones(30), atol=1e-2)


def test_only_codebook_and_detokenizer_learn_in_the_second_stage(target):
    model = SEEDTokenizer(**TOKENIZER, embedding_dim=target.dim)
    objective = SEEDTokenizerObjective(model, target, SEEDOptions(stage="quantize"), steps=4)
    names = {name.split(".")[1] for name, _ in objective.trained()}
    assert "quantize" in names and "blocks_image" in names and "encode_task_layer" in names
    assert not names & {"visual_encoder", "ln_vision", "query_tokens", "qformer", "target"}


def test_losses_have_the_papers_weights():
    generator = torch.Generator().manual_seed(0)
    hidden, vectors, codes, rebuilt = (torch.randn(2, 3, 4, generator=generator) for _ in range(4))
    made, wanted = (torch.randn(2, 5, generator=generator) for _ in range(2))
    ids = torch.zeros(2, 3, dtype=torch.long)
    values = distillation_losses(SEEDPass(hidden, hidden, vectors, ids, codes, made, rebuilt), wanted)
    assert values["vq"] == pytest.approx(1.25 * float((vectors - codes).square().mean()))
    assert values["mse"] == pytest.approx(float((made - wanted).square().mean()))
    cosine = torch.nn.functional.cosine_similarity(hidden, rebuilt, dim=-1).mean()
    assert values["cosine"] == pytest.approx(float(1 - cosine))
    total = 5 * values["vq"] + 0.5 * values["mse"] + 2 * values["cosine"]
    assert weighted_sum(values, SEEDOptions()) == pytest.approx(float(total))


def test_codes_that_nobody_uses_are_restarted(target):
    torch.manual_seed(0)
    model = SEEDTokenizer(**TOKENIZER, embedding_dim=target.dim, auxiliary=False)
    objective = SEEDTokenizerObjective(model, target, SEEDOptions(restart_every=1), steps=100)
    batch = Scenes("train").batch(range(8))
    out = model(batch.images.float() / 127.5 - 1)
    for _ in range(80):
        objective.care.observe(out.vectors, out.ids)
    before = model.quantize.embedding.weight.detach().clone()
    values = objective.after_step(0)
    changed = (model.quantize.embedding.weight != before).any(1)
    assert values["codes_restarted"] == int(changed.sum()) > 0


def test_a_probe_finds_what_is_linear_and_nothing_else(target):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (400,), generator=generator)
    x = torch.randn(400, 8, generator=generator)
    assert ridge_accuracy(x[:300], labels[:300], x[300:], labels[300:], 3) < 0.5
    x[:, :3] += 4 * torch.nn.functional.one_hot(labels, 3)
    x -= x[:300].mean(0)
    assert ridge_accuracy(x[:300], labels[:300], x[300:], labels[300:], 3) > 0.95
    model = SEEDTokenizer(**TOKENIZER, embedding_dim=target.dim).eval()
    model.quantize.embedding.weight.data.fill_(1.0)  # all codes alike
    assert probe_accuracy(model, 64, 64)["probe_colour"] < 0.4


HEADED = {**TOKENIZER, "num_queries": 8, "embedding_dim": 120}
WEIGHTS = {"readout": 0.5, "local": 2.0, "vision": 1.0}


def test_a_local_head_sees_the_codes_of_its_cell_alone(target, images):
    torch.manual_seed(0)
    model = SEEDTokenizer(**HEADED)
    heads = AuxiliaryHeads(model, target.grid, WEIGHTS)
    pixels = images[:2].float() / 127.5 - 1
    out, wanted = model(pixels), target(pixels)
    values = heads(out, out.vectors, wanted)
    assert values.keys() == WEIGHTS.keys()
    assert float(heads.total(values).detach()) == pytest.approx(
        sum(WEIGHTS[k] * float(v.detach()) for k, v in values.items())
    )
    seen = heads._runs(out.vectors.detach().requires_grad_())
    assert torch.equal(seen[:, 1], out.vectors[:, 2:4].flatten(1))
    patches = heads._patches(torch.arange(17.0).view(1, 17, 1).expand(1, 17, 16))
    assert patches.view(4, 4, 16)[1, :, 0].tolist() == [3, 4, 7, 8]  # after the class token, the upper right


def test_placed_queries_look_at_their_cells():
    torch.manual_seed(0)
    model = SEEDTokenizer(**{**HEADED, "vision_width": 64, "hidden_size": 64, "patch_size": 8})
    place_queries(model, 2)
    attention = model.qformer.encoder.layer[0].crossattention.attention
    keys = attention.key(torch.nn.functional.layer_norm(model.visual_encoder.pos_embed[0, 1:], (64,)))
    queries = attention.query(torch.nn.functional.layer_norm(model.query_tokens[0], (64,)))
    law = (queries @ keys.T / 8).softmax(1).view(2, 2, 2, 2, 4, 2, 4).sum((4, 6))  # row, column, run; cell
    own = torch.stack([law[r, c, :, r, c] for r in range(2) for c in range(2)])
    assert own.min() > 0.5  # a quarter by chance


@pytest.mark.parametrize(
    ("change", "grid"),
    [({}, None), ({"num_queries": 6}, 2), ({"patch_size": 64}, 2), ({"hidden_size": 8}, 2)],
)
def test_heads_that_do_not_fit(change, grid):
    model = SEEDTokenizer(**{**HEADED, **change})
    with pytest.raises(InputError):
        AuxiliaryHeads(model, grid, WEIGHTS)
        place_queries(model, grid or 1)


def test_a_quiet_background(target):
    quiet = SceneEmbedding(2, background=0.25)
    quiet.measure(Scenes("train"))
    cells = quiet(Scenes("train").batch(range(8)).images.float() / 127.5 - 1).view(8, 4, 30)
    loud = target(Scenes("train").batch(range(8)).images.float() / 127.5 - 1).view(8, 4, 30)
    assert torch.allclose(cells[..., 21:], 0.25 * loud[..., 21:], atol=1e-5)
    assert torch.allclose(cells[..., :21], loud[..., :21])
    with pytest.raises(InputError, match="background"):
        SceneEmbedding(2, background=0.0)


@pytest.fixture(scope="module")
def renderer_run(tokenizer_run, tmp_path_factory):
    codec = tmp_path_factory.mktemp("codec")
    torch.manual_seed(0)
    VQTokenizer(**CODEC).save_pretrained(codec)
    options = {"tokenizer": str(tokenizer_run / "model"), "codec": str(codec)}
    options |= {"validation_batches": 1, "adherence_scenes": 4}
    model = {**RENDERER, "sampling": {"num_inference_steps": 2, "guidance_scale": 2.0}}
    output = tmp_path_factory.mktemp("renderer")
    return train(recipe("seed-renderer", output, model=model, options=options)), codec


def test_a_renderer_is_trained_scored_and_saved(renderer_run, tokenizer_run):
    folder, codec = renderer_run
    scores = next(row for row in log_lines(folder) if "eval_loss" in row)
    assert 0 <= scores["eval_adherence"] <= 1
    assert (folder / "samples" / "step_000004.png").is_file()
    renderer = FlowRenderer.from_pretrained(folder / "model")
    own, given = renderer.autoencoder.cnn.state_dict(), VQTokenizer.from_pretrained(codec).state_dict()
    assert all(
        torch.equal(own[k], t) for k, t in given.items() if not k.startswith("vq.")
    )  # it stayed frozen
    tokenizer = SEEDTokenizer.from_pretrained(tokenizer_run / "model")
    tokens = tokenizer.encode(Scenes("validation").batch(range(2)).images.float() / 127.5 - 1)
    assert tokenizer.decode(tokens, renderer=renderer).shape == (2, 3, 64, 64)


def test_renderer_recipes_that_do_not_fit(renderer_run, tokenizer_run, tmp_path):
    _, codec = renderer_run
    model = str(tokenizer_run / "model")
    for options, model_config in (
        ({"tokenizer": str(codec), "codec": str(codec)}, RENDERER),
        ({"tokenizer": model, "codec": model}, RENDERER),
        ({"tokenizer": model, "codec": str(codec)}, {**RENDERER, "embedding_dim": 64}),
    ):
        keys = {"options": options, "model": model_config}
        with pytest.raises(InputError):
            SEEDRendererObjective.from_recipe(
                load_recipe(recipe("seed-renderer", tmp_path, **keys)), Scenes("train")
            )


def test_the_first_stage_gives_the_second_its_encoder(tmp_path):
    options = {"stage": "contrastive", "train_vision": True, "validation_batches": 1}
    model = {**ENCODER, "projection_dim": 8}
    folder = train(recipe("seed-tokenizer", tmp_path / "first", model=model, options=options))
    rows = log_lines(folder)
    assert 0.001 <= rows[0]["temperature"] <= 0.5
    assert any("eval_accuracy" in row for row in rows)
    first = SEEDContrastive.from_pretrained(folder / "model")
    keys = {"model": TOKENIZER, "options": {"stage": "quantize", "init": str(folder / "model")}}
    second = SEEDTokenizerObjective.from_recipe(
        load_recipe(recipe("seed-tokenizer", tmp_path / "second", **keys)), Scenes("train")
    )
    for name in (
        "query_tokens",
        "ln_vision.weight",
        "qformer.encoder.layer.0.attention.attention.query.weight",
    ):
        assert torch.equal(second.model.state_dict()[name], first.state_dict()[name])


@pytest.mark.parametrize(
    "keys",
    [
        {"model": {**TOKENIZER, "embedding_dim": 7}},
        {"model": {**TOKENIZER, "image_size": 32}},
        {"options": {"target": {"kind": "clip"}}, "model": TOKENIZER},
        {"options": {"target": {"grid": 3}}, "model": TOKENIZER},
        {"options": {"init": "nowhere"}, "model": TOKENIZER},
        {"options": {"stage": "contrastive"}, "model": ENCODER},
        {"options": {"stage": "other"}, "model": TOKENIZER},
    ],
)
def test_tokenizer_recipes_that_do_not_fit(keys, tmp_path):
    with pytest.raises(InputError):
        SEEDTokenizerObjective.from_recipe(
            load_recipe(recipe("seed-tokenizer", tmp_path, **keys)), Scenes("train")
        )


def test_an_init_of_other_sizes_is_refused(tokenizer_run, tmp_path):
    keys = {"model": {**TOKENIZER, "hidden_size": 32}, "options": {"init": str(tokenizer_run / "model")}}
    keys["options"] |= {"target": {"grid": 2}}
    with pytest.raises(InputError, match="does not fit"):
        SEEDTokenizerObjective.from_recipe(
            load_recipe(recipe("seed-tokenizer", tmp_path, **keys)), Scenes("train")
        )


def test_pairs_need_captions(tmp_path):
    keys = {"model": {**ENCODER}, "options": {"stage": "contrastive", "train_vision": True}}
    objective = SEEDContrastiveObjective.from_recipe(
        load_recipe(recipe("seed-tokenizer", tmp_path, **keys)), Scenes("train")
    )
    batch = Scenes("train").batch(range(2))
    ids, present = objective.pairs(batch)
    assert (ids[:, 0] == objective.text.vocab_size).all() and present[:, 0].all()
    with pytest.raises(InputError, match="captions"):
        objective.pairs(type(batch)(batch.images))


def test_a_clip_target(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP)).eval()
    clip.save_pretrained(tmp_path)
    target = CLIPEmbedding(str(tmp_path))
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    pixels = ((images + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.allclose(target(images), clip(pixels).image_embeds, atol=1e-5)
    assert target(torch.zeros(1, 3, 64, 64)).shape == (1, 6) and target.dim == 6
    with pytest.raises(InputError):
        CLIPEmbedding(str(tmp_path / "none"))
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(InputError):
        CLIPEmbedding(str(tmp_path))
