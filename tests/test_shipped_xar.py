"""`scenes-xar` draws what is asked, cell by cell, over latents that share the convolutions of `scenes-vq`."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

import visgen
from visgen.data.scenes import Scenes
from visgen.errors import InputError
from visgen.shipped import assets_folder


@pytest.fixture(scope="module")
def pipe():
    pipe = visgen.load("scenes-xar")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def right(pipe, count, **options):
    """Share of held-out captions whose picture shows all that they say."""
    from visgen.data.images import to_uint8
    from visgen.evaluation.scenes.adherence import verdicts

    batch = Scenes("validation", count, balanced=True).batch(range(count))
    options = {"batch_size": 16, "fixed_batch": True, **options}  # one by one they take six times as long
    result = pipe(batch.captions, seed=0, ordinals=range(count), output_type="pt", **options)
    pixels = torch.from_numpy(to_uint8(result.images * 2 - 1)).permute(0, 3, 1, 2)
    return np.mean([verdict.correct for verdict in verdicts(pixels, batch.scenes)])


def test_most_held_out_captions_are_drawn_right(pipe):
    assert right(pipe, 32, num_inference_steps=8) >= 0.6


def test_the_other_solver_draws_too(pipe):
    assert right(pipe, 16, num_inference_steps=8, solver="ode") >= 0.3


def test_a_picture_does_not_depend_on_its_batch(pipe):
    prompts = ["a red circle above a blue square", "three green hearts at night"]
    options = {"seed": 0, "num_inference_steps": 6, "output_type": "pt"}
    together = pipe(prompts, batch_size=2, **options).images
    for k, prompt in enumerate(prompts):
        alone = pipe(prompt, **options).images[0]
        assert (alone - together[k]).abs().max() < 1e-3


def test_photographs_pass_through_its_tokenizer(pipe):
    from skimage import data

    reconstruct = visgen.ReconstructPipeline(pipe.tokenizer)
    assert np.asarray(reconstruct(data.astronaut()).images[0]).shape == (64, 64, 3)
    batch = Scenes("validation", 8).batch(range(8))
    pixels = batch.images.float() / 127.5 - 1
    error = (pipe.tokenizer.decode(pipe.tokenizer.encode(pixels)) - pixels).square().mean() / 4
    assert -10 * torch.log10(error) > 33


def test_the_convolutions_are_stored_once():
    with safe_open(
        assets_folder() / "scenes-xar/tokenizer/diffusion_pytorch_model.safetensors", "pt"
    ) as file:
        assert sum(name.startswith("autoencoder.cnn.") for name in file.keys()) <= 1  # noqa: SIM118
    first = visgen.load("scenes-vq").tokenizer.state_dict()
    second = visgen.load("scenes-xar", task="reconstruct").tokenizer.state_dict()
    assert second["autoencoder.cnn.encoder.conv_in.weight"].equal(first["encoder.conv_in.weight"])


def test_strategies_are_refused(pipe):
    with pytest.raises(InputError, match="only next-token"):
        pipe("a red circle", strategy="sjd")
