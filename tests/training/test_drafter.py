"""The drafter's objective: it learns to guess the generator, and what it exports decodes."""

from __future__ import annotations

import json

import pytest
import torch

import visgen
from visgen.data.scenes import Scenes
from visgen.errors import InputError
from visgen.generators.conditions import TextCondition
from visgen.generators.drafter import Drafter
from visgen.generators.raster import RasterTransformer
from visgen.nn.sampling import TokenSampling
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.tokenizers.vq import VQTokenizer
from visgen.training import train
from visgen.training.drafter import DrafterObjective, DrafterOptions, drafter_config


def pipeline(**options) -> TextToImagePipeline:
    torch.manual_seed(0)
    tokenizer = VQTokenizer(
        image_size=64, codebook_size=32, code_dim=4, latent_channels=8, ch=8, ch_mult=(1, 1),
        num_res_blocks=1, norm_groups=4, attention=False, mid_blocks=False, patch_size=8,
    )  # fmt: skip
    text = WordVocabulary.from_words(Scenes("train").words(), 24)
    sizes = {"hidden_size": 16, "depth": 1, "num_heads": 2, "mlp_size": 32, "condition": "prompt"}
    layout = tokenizer.layout
    words = {"text_length": text.length, "text_vocab_size": text.vocab_size}
    generator = RasterTransformer(grid=(layout.h, layout.w), codebook_size=32, **(sizes | words | options))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return TextToImagePipeline(tokenizer.eval(), generator.eval(), text, sampling={"guidance_scale": 1.5})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline") / "model"
    pipeline().save_pretrained(path)
    return path


def recipe(folder, output, steps, **options):
    return {
        "objective": "drafter",
        "output": str(output),
        "steps": steps,
        "batch_size": 8,
        "data": {"source": "scenes", "split": "train"},
        "options": {"pipeline": str(folder), "noise": 0.02} | options,
        "optimizer": {"lr": 5e-3},
        "log_every": 5,
        "sample_every": steps,
        "checkpoint_every": steps,
    }


def test_training_learns_and_the_export_decodes(folder, tmp_path) -> None:
    run = train(recipe(folder, tmp_path / "run", 60, validation_batches=1, decode_images=2))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss" in line]
    assert losses[-1]["regression"] < 0.7 * losses[0]["regression"]
    assert losses[-1]["overlap"] > losses[0]["overlap"] + 0.05
    evaluation = next(line for line in lines if "eval_overlap" in line)
    assert 0 < evaluation["eval_overlap"] <= 1 <= evaluation["eval_tokens_per_pass"]
    pipe = visgen.load(run / "model")
    out = pipe("a red circle", seed=0, strategy="speculative:4", output_type="pt")
    again = pipe("a red circle", seed=0, strategy="speculative:4", output_type="pt")
    assert torch.equal(out.images, again.images)
    assert "embedding.weight" not in Drafter.from_pretrained(run / "model/drafter").state_dict()
    train(recipe(folder, tmp_path / "second", 1, init=str(run / "model/drafter")))


@torch.no_grad()
def test_training_and_drafting_see_the_same() -> None:
    """What the objective scores is what a session says, at every position, padding included."""
    pipe = pipeline()
    target = pipe.generator = RasterTransformer(
        grid=(4, 4), codebook_size=32, hidden_size=16, depth=1, num_heads=2, mlp_size=32,
        condition="text", text_dim=4, text_length=5,
    ).eval()  # fmt: skip
    for parameter in target.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model = Drafter(**drafter_config(target)).eval()
    model.init_weights()
    objective, batch = DrafterObjective(model, pipe, DrafterOptions("")), Scenes("train").batch(range(2))
    condition = TextCondition(torch.randn(2, 5, 4), torch.arange(5) >= torch.tensor([[2], [0]]))
    found: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: found.append(output))
    objective._loss(model, batch, condition, None)

    ids = target.as_positions(pipe.tokenizer.encode(batch.images.float() / 127.5 - 1))
    session, one = target.session(condition, TokenSampling(), 1), torch.ones(2, dtype=torch.long)
    drafting = model.session(session, 2)
    said = [drafting.start(session.prefill().hidden, ids[:, 0]).hidden]
    for position in range(1, 15):
        hidden = session.extend(ids[:, position - 1 : position]).hidden
        session.commit(torch.zeros(2, 1, dtype=torch.long), one)
        said.append(drafting.accept(ids[:, position : position + 1], hidden, one).hidden)
    assert torch.allclose(torch.cat(said, 1), found[0][:, 4:], atol=1e-5)


def test_the_same_step_has_the_same_noise() -> None:
    objective = DrafterObjective(
        Drafter(**drafter_config(pipeline().generator)), pipeline(), DrafterOptions("")
    )
    batch = Scenes("train").batch(range(4))
    first, same, other = (objective.loss(batch, 0, seed)["loss"] for seed in (1, 1, 2))
    assert first == same != other


def test_a_generator_without_hidden_states_is_refused() -> None:
    with pytest.raises(InputError, match="RasterTransformer of window 1"):
        windows = pipeline(window=2)
        DrafterObjective(Drafter(**drafter_config(windows.generator)), windows, DrafterOptions(""))


def test_a_pipeline_drafts_the_same_image_in_any_batch() -> None:
    pipe = pipeline()
    drafter = Drafter(**drafter_config(pipe.generator)).eval()
    drafter.init_weights()
    pipe.register_modules(drafter=drafter)
    options = {"strategy": "speculative", "strategy_options": {"tree": "chain", "tokens": 2}}
    both = pipe(["a red circle", "a blue square"], seed=[3, 4], output_type="pt", **options).images
    one = pipe("a blue square", seed=4, output_type="pt", **options).images
    assert torch.equal(both[1:], one)
