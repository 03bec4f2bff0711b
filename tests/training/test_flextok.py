"""Training of FlexTok: what is kept, what is frozen, a short run that can be loaded, refused options."""

import pytest
import torch

import visgen
from visgen.data.batch import Batch
from visgen.errors import InputError
from visgen.nn.flow import FlowSampling
from visgen.tokenizers.flextok import FlexTokTokenizer
from visgen.tokenizers.vq import VQTokenizer
from visgen.training import train
from visgen.training.flextok import FlexTokObjective, FlexTokOptions, keep_count, prefix_lengths
from visgen.training.recipe import load_recipe

SIZE = {"width": 32, "depth": 1, "head_dim": 16, "patch_size": 1, "position_sizes": [8, 8]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vq")
    VQTokenizer(
        image_size=64, codebook_size=16, code_dim=8, latent_channels=8, ch=8, ch_mult=(1, 1),
        num_res_blocks=1, norm_groups=4, attention=False, patch_size=4,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def recipe(base, output, **options):
    return {
        "objective": "flextok-tokenizer",
        "output": str(output),
        "steps": 3,
        "batch_size": 6,
        "data": {"source": "scenes", "split": "train"},
        "model": {
            "levels": [5, 5],
            "num_registers": 6,
            "encoder_sizes": SIZE,
            "decoder_sizes": SIZE,
            "sampling": {"num_inference_steps": 2, "guidance_scale": 2.0},
        },
        "options": {"latents": base, "groups": 2} | options,
        "sample_every": 3,
        "optimizer": {"lr": 1e-3},
    }


class Pictures:
    image_size = 64


@pytest.fixture
def objective(base, tmp_path):
    torch.manual_seed(1)
    loaded = load_recipe(recipe(base, tmp_path, full_share=0.25))
    objective = FlexTokObjective.from_recipe(loaded, Pictures())
    objective.freeze()
    return objective.train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=generator))


def test_numbers_of_tokens_that_are_kept():
    generator = torch.Generator().manual_seed(0)

    def kept(mode, registers):
        draw = lambda n: int(torch.randint(n, (1,), generator=generator))  # noqa: E731
        return {keep_count(mode, registers, draw) for _ in range(300)}

    assert kept("pow2", 16) == {1, 2, 4, 8, 16} and kept("pow2", 12) == {1, 2, 4, 8}
    assert kept("uniform", 12) == set(range(1, 13))
    assert kept("uniform_pow2", 12) == {1, 2, 4, 8, 16}
    assert prefix_lengths(16) == [1, 2, 4, 8, 16] and prefix_lengths(6) == [1, 2, 4, 6]


def test_the_autoencoder_is_that_of_the_base_and_stays(objective, base, batch):
    vq = VQTokenizer.from_pretrained(base)
    images = batch.images.float() / 127.5 - 1
    latents = objective.model.codec.encode(images)
    torch.testing.assert_close(latents, vq.latents(images) * 8**0.5)
    names = [name for name, _ in objective.trained()]
    assert names and not any("codec" in name for name in names)
    assert not any("pos_table" in name and "register" not in name for name in names)  # sines


def test_the_loss_is_a_function_of_its_seed_and_falls(objective, batch):
    first, again, other = (objective.loss(batch, 0, seed)["loss"] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    optimizer = torch.optim.AdamW([p for _, p in objective.trained()], lr=3e-3)
    losses = []
    for step in range(40):
        losses.append(objective.loss(batch, step, step)["loss"])
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.stack(losses[-8:]).mean() < 0.8 * torch.stack(losses[:8]).mean()


def test_a_fresh_model_predicts_nothing(objective, batch):
    """Heads are zero, so that the loss is the mean square of the target: 1 of noise and 1 of latents."""
    assert 1.5 < float(objective.loss(batch, 0, 0)["loss"]) < 2.5


def test_null_rows_learn_the_null_token_alone(base, tmp_path, batch):
    loaded = load_recipe(recipe(base, tmp_path, null_probability=0.999))
    objective = FlexTokObjective.from_recipe(loaded, Pictures())
    for parameter in objective.model.decoder.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for block in objective.model.decoder.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    objective.loss(batch, 0, 0)["loss"].backward()
    assert objective.model.decoder.null_token.grad.abs().sum() > 0
    assert not objective.model.encoder.registers.grad.any()


def test_registers_spread_over_the_grid(base, tmp_path):
    torch.manual_seed(0)
    loaded = load_recipe(recipe(base, tmp_path, spread_registers=True))
    model = FlexTokObjective.from_recipe(loaded, Pictures()).model
    torch.testing.assert_close(model.encoder.registers, model.decoder.register_positions(6))
    assert len(model.encoder.registers.unique(dim=0)) == 6


def test_a_run_makes_a_pipeline_folder(base, tmp_path):
    folder = train(recipe(base, tmp_path / "run", validation_batches=1), ["precision=bf16"])
    pipe = visgen.load(folder / "model")
    model = pipe.tokenizer
    assert isinstance(model, FlexTokTokenizer) and model.sampling == FlowSampling(2, 2.0)
    assert list((folder / "samples").glob("*.png"))
    log = (folder / "log.jsonl").read_text()
    assert all(f"eval_psnr_{k}" in log for k in (1, 2, 4, 6)) and "codebook_perplexity" in log
    again = recipe(None, tmp_path / "again")
    again |= {"model": {}, "steps": 1, "options": {"init": str(folder / "model")}}
    assert visgen.load(train(again) / "model").tokenizer.config.num_registers == 6


def test_a_model_to_start_from_must_agree(base, tmp_path):
    folder = train(recipe(base, tmp_path / "run"), ["steps=1", "sample_every=0"])
    other = recipe(None, tmp_path / "again")
    other["options"] = {"init": str(folder / "model")}
    other["model"] = {"num_registers": 5}
    with pytest.raises(InputError, match="num_registers"):
        train(other)
    other["options"] = {"init": base}
    with pytest.raises(InputError, match="not a FlexTok"):
        train(other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"latents": "a", "init": "b"},
        {"latents": "a", "groups": 0},
        {"latents": "a", "null_probability": 1.0},
        {"latents": "a", "full_share": 1.5},
    ],
)
def test_options_that_do_not_fit(options):
    with pytest.raises(InputError):
        FlexTokOptions(**options)
