"""`scenes-seed` captions scenes and draws captions by 32 ids, which carry what a scene shows."""

import numpy as np
import pytest
import torch

import visgen
from visgen.data.images import to_pil
from visgen.data.scenes import Scenes
from visgen.evaluation.scenes.adherence import verdicts
from visgen.evaluation.scenes.captions import score_captions
from visgen.training.seed_probe import probe_accuracy

COUNT = 32


@pytest.fixture(scope="module")
def pipe():
    pipe = visgen.load("scenes-seed")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def held_out():
    return Scenes("validation", COUNT, balanced=True).batch(range(COUNT))


def right(images, scenes):
    """Share of pictures that show all that the scenes say."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    return np.mean([verdict.correct for verdict in verdicts(pixels, scenes)])


def test_held_out_scenes_are_captioned(pipe, held_out):
    captions = pipe.caption(to_pil(held_out.images.float() / 127.5 - 1))
    score = score_captions(captions, held_out.scenes)
    assert score.f1 >= 0.9
    assert score.readable >= 0.85


def test_held_out_captions_are_drawn(pipe, held_out):
    assert right(pipe.draw(held_out.captions, seed=0).images, held_out.scenes) >= 0.6


def test_a_picture_is_drawn_again_of_its_ids(held_out):
    pipe = visgen.load("scenes-seed", task="reconstruct")
    pipe.set_progress_bar_config(disable=True)
    made = pipe(to_pil(held_out.images.float() / 127.5 - 1))
    assert made.tokens.ids.shape == (COUNT, 32)
    assert right(made.images, held_out.scenes) >= 0.6


def test_a_caption_is_said_and_drawn_in_one_conversation(pipe):
    scene = visgen.load("scenes-var")("two blue stars at night", seed=0).images[0]
    words = pipe.caption([scene])[0]
    assert "blue" in words and "star" in words
    again = pipe.draw([words], seed=0).images[0]
    assert again.size == (64, 64)


def test_a_linear_probe_reads_colour_and_shape(pipe):
    found = probe_accuracy(pipe.tokenizer, 1024, test_count=128)
    assert found["probe_colour"] >= 0.9
    assert found["probe_shape"] >= 0.85


def test_drawings_do_not_depend_on_the_batch(pipe):
    prompts = ["a yellow star", "a large pink ring in a meadow", "a red circle above a blue square"]
    together = [np.asarray(image) for image in pipe.draw(prompts, seed=3).images]
    alone = np.asarray(pipe.draw([prompts[1]], seed=3).images[0])
    assert np.array_equal(together[1], alone)
