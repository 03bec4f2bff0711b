"""Training of KARL: the two passes, their targets, both stages, calibration, scores."""

import json

import pytest
import torch
import yaml

import visgen
from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.nn.building import construct
from visgen.pipelines.loading import load
from visgen.tokenizers.karl import KARLTokenizer
from visgen.tokenizers.vq import VQTokenizer
from visgen.training import train
from visgen.training.karl import KARLObjective, KARLOptions, halting_losses, updated_bin_law
from visgen.training.karl_options import build_model
from visgen.training.karl_scores import calibrate_errors, mean_error
from visgen.training.reconstruction import to_pixels

BASE = {
    "kind": "vq",
    "predict": "latents",
    "image_size": 64,
    "codebook_size": 16,
    "code_dim": 4,
    "latent_channels": 8,
    "ch": 8,
    "ch_mult": [1],
    "num_res_blocks": 1,
    "norm_groups": 4,
    "attention": False,
    "mid_blocks": False,
    "patch_size": 16,
}
MODEL = {
    "image_size": 64,
    "base": BASE,
    "encoder_width": 16,
    "encoder_layers": 1,
    "encoder_heads": 2,
    "decoder_width": 16,
    "decoder_layers": 1,
    "decoder_heads": 2,
    "max_latents": 8,
    "num_tokens": 8,
    "codebook_size": 16,
    "code_dim": 4,
    "max_grid": 4,
    "halt_width": 8,
    "error_bins": [0.01, 0.05, 0.1, 0.2, 0.4],
}
OPTIONS = {"token_choices": (2, 4, 8), "token_groups": 2, "first_errors": 0.05, "extend_ends": True}


def objective(model=MODEL, **options):
    torch.manual_seed(0)
    built = construct(KARLTokenizer, model, "model")
    return KARLObjective(built, KARLOptions(**OPTIONS | options), steps=10)


@pytest.fixture
def batch():
    draws = torch.Generator().manual_seed(0)
    return Batch(torch.randint(256, (4, 3, 64, 64), generator=draws, dtype=torch.uint8))


def test_distillation_leaves_the_base_alone(batch):
    one = objective()
    values = one.loss(batch, 0, 5)
    values["loss"].backward()
    assert not any(p.requires_grad for p in one.model.base_tokenizer.parameters())
    for name, parameter in one.model.named_parameters():
        if not name.startswith("base_tokenizer."):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert {"eic_code", "ltc_code", "eic_halt", "ltc_halt", "eic_quantizer", "eic_error"} <= values.keys()


def test_finetuning_reaches_the_base(batch):
    one = objective(stage="finetune", gradient_weight=0.5)
    values = one.loss(batch, 0, 5)
    values["loss"].backward()
    decoder = one.model.base_tokenizer.cnn.decoder
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())
    expected = sum(values[k] for k in ("eic_pixel", "ltc_pixel", "eic_halt", "ltc_halt"))
    expected = expected + 0.5 * (values["eic_gradient"] + values["ltc_gradient"])
    expected = expected + values["eic_quantizer"] + values["ltc_quantizer"]
    assert torch.allclose(values["loss"], expected)


def test_early_steps_do_without_the_second_pass(batch):
    for stage in ("distill", "finetune"):
        one = objective(stage=stage, ltc_start=3)
        early, late = one.loss(batch, 2, 5), one.loss(batch, 3, 5)
        assert not any(name.startswith("ltc_") for name in early)
        assert torch.equal(early["eic_halt"], late["eic_halt"]) and "ltc_halt" in late
        early["loss"].backward()


def test_a_step_is_a_function_of_its_seed(batch):
    one = objective()
    first, again, other = (one.loss(batch, 0, seed)["loss"] for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_adversary_sees_both_passes(batch):
    spec = {"hidden_size": 4, "num_layers": 1, "adaptive": True}
    from visgen.training.reconstruction import AdversarialSpec

    one = objective(stage="finetune", adversarial=AdversarialSpec(**spec))
    values = one.loss(batch, 0, 5)
    assert values["adversarial_weight"] >= 0
    assert one._reconstructed.shape == (8, 3, 64, 64)
    assert torch.isfinite(one.adversary_loss(batch, 0, 5)["loss"])


def test_the_head_learns_to_keep_the_first_tokens():
    logits = torch.tensor([[-9.0, -9.0, 9.0, 9.0], [-9.0, -9.0, -9.0, -9.0]])
    goes_on, halts = halting_losses(logits, torch.tensor([2, 4]))
    assert goes_on < 1e-3 and halts < 1e-3
    goes_on, halts = halting_losses(logits, torch.tensor([4, 2]))
    assert goes_on == pytest.approx(9 / 4, rel=1e-3)  # half of the first row
    assert halts == pytest.approx(9 / 2, rel=1e-3)  # half of the second, a mean of its own
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    random = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    goes_on, halts = halting_losses(random, torch.tensor([1, 1, 1]))
    assert torch.allclose(goes_on, bce(random[:, :1], torch.zeros(3, 1)))
    assert torch.allclose(halts, bce(random[:, 1:], torch.ones(3, 3)))


def test_the_law_of_errors_moves_to_those_not_reached(batch):
    law = torch.tensor([0.5, 0.5, 0.0])
    moved = updated_bin_law(law, (0.01, 0.02, 0.03), torch.tensor(0.015))
    assert torch.allclose(moved, torch.tensor([0.5, 0.495, 0.0]) / 0.995)
    one = objective()
    assert one.bin_law.tolist() == [0.5, 0.5, 0, 0, 0]
    one.loss(batch, 0, 5)
    one.after_step(0)
    assert "bin_law" in one.training_state()


def test_ends_are_asked_beyond_what_was_measured():
    one = objective()
    errors, draws = torch.full((300,), 0.08), torch.Generator().manual_seed(0)
    tokens = torch.tensor([2, 4, 8]).repeat_interleave(100)
    bins = one._ltc_bins(errors, tokens, draws).split(100)
    assert set(bins[0].tolist()) == {2, 3, 4}  # fewest tokens: larger errors need no more
    assert set(bins[1].tolist()) == {2}
    assert set(bins[2].tolist()) == {0, 1, 2}  # all tokens: nothing better is known
    plain = objective(extend_ends=False)
    assert set(plain._ltc_bins(errors, tokens, draws).tolist()) == {2}


def test_vectors_stay_whole_at_first_and_then_codes_stand_on_them(batch):
    one = objective(continuous_steps=2, restart_every=20, token_choices=(8,), ltc_start=5)
    before = one.model.codebook.detach().clone()
    for step in range(2):
        assert "eic_quantizer" not in one.loss(batch, step, step)
        assert torch.equal(one.model.codebook, before)  # nothing is placed on the way
        values = one.after_step(step)
    assert values["codes_restarted"] == len(before)
    seen = one.care.vectors[-int(one.care.kept) :]
    near = torch.cdist(one.model.codebook.detach(), seen).min(1).values
    assert float(near.max()) < 1e-3 and not torch.equal(one.model.codebook, before)
    assert "eic_quantizer" in one.loss(batch, 2, 2)
    assert "codes_restarted" not in one.after_step(2)


def test_dead_codes_come_back(batch):
    one = objective(restart_every=1)
    with torch.no_grad():
        one.model.codebook[1:] = -one.model.codebook[:1]
    for _ in range(350):
        one.care.counts.mul_(0.99)
        one.care.counts[0] += 0.16
    one.loss(batch, 0, 1)
    assert one.after_step(0)["codes_restarted"] > 0


def test_calibration_keeps_the_asked_share_below(batch):
    torch.manual_seed(0)
    model = construct(KARLTokenizer, MODEL, "model").eval()
    with torch.no_grad():
        model.encoder.errors.normal_()
        model.encoder.halting[2].weight.mul_(300)
        for p in (*model.encoder.parameters(), *model.decoder.parameters()):
            p.mul_(2)
    images = to_pixels(torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(0)).mul(255))
    measured = calibrate_errors(model, images, share=0.9, batch_size=16)
    assert len(measured) == 5 and list(measured) == sorted(measured)
    model.register_to_config(bin_errors=measured)
    wanted = measured[-1]
    recon = model.decode(model.encode(images, max_error=wanted))
    assert (mean_error(recon, images) <= wanted + 1e-6).float().mean() >= 0.85


def recipe(tmp_path, name, **keys):
    every = {"log_every": 1, "sample_every": 2, "checkpoint_every": 1, "precision": "bf16"}
    common = {"schema": 1, "objective": "karl-tokenizer", "steps": 2, "batch_size": 4, **every}
    return {**common, "output": str(tmp_path / name), "data": {"source": "scenes", "split": "train"}, **keys}


def test_both_stages_from_recipes_to_a_pipeline(tmp_path):
    options = {
        **OPTIONS,
        "token_choices": [2, 8],
        "validation_batches": 1,
        "validation_errors": [0.1, 0.3],
        "validation_tokens": [4],
    }
    plain = yaml.safe_load(yaml.safe_dump({**options}))
    first = train(recipe(tmp_path, "one", model=MODEL, options=plain))
    second = {**plain, "stage": "finetune", "init": str(first / "model"), "calibration_batches": 1}
    folder = train(recipe(tmp_path, "two", options=second))
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scores = next(row for row in rows if "eval_count@0.1" in row)
    assert 0 <= scores["eval_count@0.1"] <= 8
    assert {"eval_met@0.3", "eval_objects@0.3", "eval_error@4", "eval_met@0.1@4"} <= scores.keys()
    pipe = load(str(folder / "model"))
    assert len(pipe.tokenizer.config.bin_errors) == 5
    assert (folder / "samples/step_000002.png").is_file()


def test_finetuning_leaves_a_frozen_base_as_it_was(tmp_path):
    first = train(recipe(tmp_path, "one", model=MODEL, options={**OPTIONS, "token_choices": [2, 8]}))
    start = {"stage": "finetune", "init": str(first / "model"), "freeze_base": True}
    second = train(recipe(tmp_path, "two", options={**OPTIONS, **start, "token_choices": [2, 8]}))
    before, after = (load(str(folder / "model")).tokenizer.state_dict() for folder in (first, second))
    changed = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert changed and not any(name.startswith("base_tokenizer.") for name in changed)


def test_a_base_beside_init_takes_the_place_of_its_own(tmp_path):
    first = train(recipe(tmp_path, "one", model=MODEL, options={**OPTIONS, "token_choices": [2, 8]}))
    found = load(str(first / "model")).tokenizer
    other = VQTokenizer(**{k: v for k, v in found.base_tokenizer.cnn.config.items() if k[0] != "_"})
    visgen.ReconstructPipeline(other).save_pretrained(tmp_path / "base")
    options = KARLOptions(init=str(first / "model"), base=str(tmp_path / "base"))
    built = build_model(options, {})
    assert built.base_tokenizer.cnn.state_dict()["encoder.conv_in.weight"].equal(other.encoder.conv_in.weight)
    assert built.encoder.latents.equal(found.encoder.latents)
    with pytest.raises(InputError, match="has other sizes"):
        build_model(KARLOptions(init=str(first / "model"), base="scenes-vq"), {})


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path):
    options = {**OPTIONS, "token_choices": [2, 8]}
    whole = train(recipe(tmp_path, "whole", model=MODEL, options=options, steps=3))
    cut = recipe(tmp_path, "cut", model=MODEL, options=options, steps=3)
    import shutil

    shutil.copytree(whole, tmp_path / "cut")
    for step in (3,):
        shutil.rmtree(tmp_path / "cut/checkpoints" / f"step_{step:08d}")
    shutil.rmtree(tmp_path / "cut/model")
    train(cut)
    names = "model/tokenizer/diffusion_pytorch_model.safetensors"
    assert (whole / names).read_bytes() == (tmp_path / "cut" / names).read_bytes()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"token_choices": ()}, "token_choices"),
        ({"token_choices": (9,)}, "1 to 8"),
        ({"token_groups": 0}, "token_groups=0"),
        ({"perceptual": {"weights_path": "x"}}, "stage finetune"),
    ],
)
def test_options_that_do_not_fit(options, told):
    with pytest.raises(InputError, match=told):
        objective(**options)


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (MODEL, {"init": "somewhere"}, "leave the model section"),
        ({**MODEL, "base": {"kind": "vqgan"}}, {"base": "scenes-vq"}, "unknown key"),
        (MODEL, {"base": "scenes-var"}, "not a VQTokenizer"),
        ({}, {"init": "scenes-vq"}, "holds a VQTokenizer"),
    ],
)
def test_recipes_that_contradict_themselves(tmp_path, model, options, told):
    with pytest.raises(InputError, match=told):
        train(recipe(tmp_path, "run", model=model, options={**OPTIONS, "token_choices": [2], **options}))


def test_latents_start_spread_over_the_grid_and_layers_as_wide_as_asked():
    torch.manual_seed(0)
    model = build_model(KARLOptions(spread_latents=True, fan_in_init=True), MODEL)
    for latents in (model.encoder.latents, model.decoder.latent_positions):
        assert (latents @ latents.T).argmax(-1).tolist() == list(range(8))  # each from a place of its own
    assert torch.equal(model.encoder.positions, model.decoder.positions)
    weight = model.encoder.blocks[0].mlp.c_fc.weight
    assert 0.7 < weight.std() * weight.shape[1] ** 0.5 < 1.1
