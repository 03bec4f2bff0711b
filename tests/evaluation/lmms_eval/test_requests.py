"""How lmms-eval's options and texts are read."""

from __future__ import annotations

import logging

import pytest
import torch
from PIL import Image

from visgen.errors import InputError
from visgen.evaluation.lmms_eval.requests import Asked, Writing, batches, message, pictures, read_writing
from visgen.evaluation.lmms_eval.writing import Draws, Forced
from visgen.nn.noise import Noise
from visgen.nn.sampling import TokenSampling

PICTURE = Image.new("RGB", (4, 4))
IMAGE = {"type": "image"}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, Writing()),
        ({"max_new_tokens": 16, "until": ["\n\n"], "image_aspect_ratio": "pad"}, Writing(16, ("\n\n",))),
        ({"until": "\n", "temperature": 0, "top_p": None, "num_beams": 1}, Writing(until=("\n",))),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, Writing(temperature=0.7, top_p=0.9)),
        ({"do_sample": True}, Writing(temperature=1.0)),
        ({"do_sample": False, "temperature": 0.7}, Writing()),
        ({"num_beams": 3.0, "until": None}, Writing(num_beams=3)),
    ],
)
def test_generation_options(options: dict[str, object], wanted: Writing) -> None:
    assert read_writing(options) == wanted


def test_options_that_cannot_be() -> None:
    for options, told in (
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"num_beams": 2.5}, "num_beams=2.5"),
        ({"temperature": 0.5, "num_beams": 2}, "give one of them"),
    ):
        with pytest.raises(InputError, match=told):
            read_writing(options)


def test_answers_end_at_the_first_stop() -> None:
    writing = Writing(until=("\n\n", "."))
    assert writing.cut("\n\nred. And\n\nblue") == "red"
    assert writing.cut(" a b ") == "a b"


def test_where_pictures_stand(caplog: pytest.LogCaptureFixture) -> None:
    two = (PICTURE, PICTURE)
    assert message(Asked("what?", (PICTURE,)), "<image>") == [IMAGE, {"type": "text", "text": "what?"}]
    assert message(Asked("a <image> b<image>", two), "<image>") == [
        {"type": "text", "text": "a "},
        IMAGE,
        {"type": "text", "text": " b"},
        IMAGE,
    ]
    assert message(Asked("what?"), "<image>") == [{"type": "text", "text": "what?"}]
    caplog.set_level(logging.WARNING, logger="visgen")
    assert message(Asked("a <image>b", two), "<image>") == [IMAGE, IMAGE, {"type": "text", "text": "a b"}]
    assert "1 times <image> for 2 pictures" in caplog.text
    assert message(Asked("a <image>", two[:1]), None) == [IMAGE, {"type": "text", "text": "a <image>"}]


def test_visuals() -> None:
    assert pictures(None) == () == pictures([])
    assert [one.mode for one in pictures([PICTURE.convert("L"), [PICTURE]])] == ["RGB", "RGB"]
    with pytest.raises(InputError, match=r"visual 'a\.mp4' is no picture"):
        pictures(["a.mp4"])


def test_batches_hold_what_is_alike() -> None:
    keys = [("a", 3), ("b", 1), ("a", 9), ("a", 5), ("b", 2)]
    assert batches(keys, 2) == [[2, 3], [0], [4, 1]]


def test_draws_follow_the_law_row_by_row() -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0, -9.0], [3.0, 0.0, 0.0, 0.0]])
    counts = torch.zeros(4)
    for seed in range(400):
        noise = Noise.per_image([(seed, 0), (seed, 1)], stream="lmms-eval")
        drawn = Draws(TokenSampling(top_k=3), noise)(torch.zeros(2, 1), scores)
        assert drawn.isfinite().sum(dim=1).tolist() == [1, 1]
        alone = Draws(TokenSampling(top_k=3), Noise.per_image([(seed, 0)], stream="lmms-eval"))
        assert alone(torch.zeros(1, 1), scores[:1]).equal(drawn[:1])
        counts[drawn[0].argmax()] += 1
    law = scores[0, :3].softmax(dim=0)
    assert counts[3] == 0
    assert (counts[:3] / 400 - law).abs().max() < 0.1  # four standard deviations of a share are 0.1


def test_forced_answers_are_scored() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0]])
    forced = Forced([[2, 2], [1]], torch.device("cpu"))
    assert forced(torch.zeros(2, 1), scores).argmax(dim=1).tolist() == [2, 1]
    forced(torch.zeros(2, 2), scores)
    log = scores.log_softmax(dim=1)
    assert forced.sums_B.tolist() == pytest.approx([2 * log[0, 2].item(), log[1, 1].item()], abs=1e-6)
    assert forced.greedy_B.tolist() == [True, False]
