"""`scenes-karl` spends as many tokens as a wanted error needs."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

import visgen
from visgen.data.scenes import Scenes
from visgen.evaluation.rank import spearman
from visgen.shipped import assets_folder
from visgen.training.karl_scores import mean_error
from visgen.training.reconstruction import to_pixels

COUNT = 96


@pytest.fixture(scope="module")
def tokenizer():
    return visgen.load("scenes-karl", task="reconstruct").tokenizer


@pytest.fixture(scope="module")
def batch():
    return Scenes("validation", COUNT).batch(range(COUNT))


def test_wanted_errors_are_met_and_cost_tokens(tokenizer, batch):
    images = to_pixels(batch.images)
    errors = [tokenizer.config.bin_errors[k] for k in (4, 10, 16)]
    counts = []
    for error, tokens in zip(errors, tokenizer.encode_errors(images, errors), strict=True):
        met = (mean_error(tokenizer.decode(tokens), images) <= error).float().mean()
        assert met >= 0.8, error
        counts.append(float(tokens.lengths.float().mean()))
    assert counts[0] > counts[1] > counts[2] > 1


def test_more_objects_cost_more_tokens(tokenizer, batch):
    tokens = tokenizer.encode(to_pixels(batch.images))
    objects = torch.tensor([float(len(scene.objects)) for scene in batch.scenes])
    assert spearman(tokens.lengths.float(), objects) >= 0.5


def test_counts_and_pictures_do_not_depend_on_the_batch(tokenizer, batch):
    images = to_pixels(batch.images[:6])
    together = tokenizer.encode(images)
    made = tokenizer.decode(together)
    for k in range(len(images)):
        alone = tokenizer.encode(images[k : k + 1])
        assert int(alone.lengths) == int(together.lengths[k])
        assert torch.allclose(tokenizer.decode(alone), made[k : k + 1], atol=2e-3)


def test_a_photograph_passes_through(tokenizer):
    from skimage import data

    out = visgen.ReconstructPipeline(tokenizer)(data.astronaut()).images[0]
    assert np.asarray(out).shape == (64, 64, 3)


def test_the_convolutions_are_stored_once(tokenizer):
    path = assets_folder() / "scenes-karl/tokenizer/diffusion_pytorch_model.safetensors"
    with safe_open(path, "pt") as file:
        assert not any(name.startswith("base_tokenizer.cnn.") for name in file.keys())  # noqa: SIM118
    first = visgen.load("scenes-vq").tokenizer.state_dict()["encoder.conv_in.weight"]
    assert tokenizer.state_dict()["base_tokenizer.cnn.encoder.conv_in.weight"].equal(first)
