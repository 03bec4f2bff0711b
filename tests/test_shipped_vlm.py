"""`scenes-vlm` answers questions about pictures, from all of its vision tokens or a third of them."""

import numpy as np
import pytest
import torch

import visgen
from visgen.data.images import to_pil
from visgen.data.scenes import SceneQuestions, render
from visgen.pruning.divprune import DivPrune

COUNT = 70


@pytest.fixture(scope="module")
def pipe():
    pipe = visgen.load("scenes-vlm")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def asked():
    """Held-out pictures of 64 pixels, questions and answers."""
    source = SceneQuestions("validation", COUNT)
    found = [source[i] for i in range(COUNT)]
    pictures = to_pil(render([one.scene for one in found]).float() / 127.5 - 1)
    return pictures, [one.question.text for one in found], [one.question.answer for one in found]


def right(pipe, asked, **options):
    pictures, questions, answers = asked
    said = pipe(pictures, questions, max_new_tokens=4, batch_size=35, **options)
    return np.mean([one == wanted for one, wanted in zip(said.answers, answers, strict=True)]), said


def test_held_out_questions_are_answered(pipe, asked):
    assert right(pipe, asked)[0] >= 0.8


def test_a_third_of_the_tokens_is_enough_for_most(pipe, asked):
    share, said = right(pipe, asked, prune="divprune:0.33")
    assert share >= 0.6
    assert {len(row[0]) for row in said.reports[0].kept} == {48}


def test_all_tokens_under_a_pruner_are_no_pruning(pipe, asked):
    pictures, questions, _ = (part[:8] for part in asked)
    whole = pipe(pictures, questions, max_new_tokens=4).answers
    assert pipe(pictures, questions, max_new_tokens=4, prune="divprune:1.0").answers == whole


def test_pictures_of_other_sizes_are_answered_too(pipe):
    from skimage import data

    answers = pipe([data.astronaut(), data.coffee()], "how many objects are there?", max_new_tokens=4).answers
    assert all(answer in ("one", "two", "three", "four") for answer in answers)


def test_the_model_is_one_of_the_transformers_library(pipe):
    model = pipe.vision_language_model.model
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = pipe.vision_language_model.inputs([torch.zeros(3, 64, 64)], ["what is the background?"])
    with DivPrune(keep=0.1)(model):
        model.generate(**inputs, max_new_tokens=2)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
