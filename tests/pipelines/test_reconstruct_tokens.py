"""Reconstruction with knobs: how many tokens, how large an error, and decoders that start from noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.pipelines.conftest import SIZE, random_picture, same
from tests.pipelines.tiny_tokenizers import tiny_pipe
from visgen.errors import InputError
from visgen.evaluation.rate import doubling, pixel_errors, rate_points, shipped_tokenizers, usual_knobs
from visgen.nn.flow import FlowSampling
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.tokenizers.tokens import Sequence1D

PICTURES = [random_picture(seed=n) for n in range(3)]


@pytest.fixture(scope="module")
def flextok() -> ReconstructPipeline:
    return tiny_pipe("FlexTokTokenizer")


@pytest.fixture(scope="module")
def karl() -> ReconstructPipeline:
    return tiny_pipe("KARLTokenizer")


@pytest.fixture(scope="module")
def seed() -> ReconstructPipeline:
    return tiny_pipe("SEEDTokenizer")


def test_fewer_tokens_are_a_prefix(flextok: ReconstructPipeline) -> None:
    few, all_ = flextok(PICTURES, num_tokens=3), flextok(PICTURES)
    assert few.tokens.layout == Sequence1D(3) and all_.tokens.layout == Sequence1D(8)
    assert torch.equal(few.tokens.values, all_.tokens.values[:, :3])
    assert few.settings["num_tokens"] == 3 and "num_tokens" not in all_.settings
    assert not same(few.images, all_.images)


def test_an_image_does_not_depend_on_its_batch(flextok: ReconstructPipeline) -> None:
    together = flextok(PICTURES, seed=5).images
    for index, picture in enumerate(PICTURES):
        assert same(flextok(picture, seed=5).images, [together[index]])
    assert same(flextok(PICTURES[::-1], seed=5).images, together[::-1])
    assert not same(flextok(PICTURES, seed=6).images, together)


def test_without_a_seed_the_draw_is_the_decoders(flextok: ReconstructPipeline) -> None:
    tokens = flextok.encode_images(flextok.tokenizer.preprocess(PICTURES))
    with torch.no_grad():
        alone = torch.cat([flextok.tokenizer.decode(tokens[row]) for row in range(3)])
    assert torch.equal(flextok.decode_tokens(tokens), alone)
    assert torch.equal(flextok.decode_tokens(tokens, seed=5), flextok.decode_tokens(tokens, seed=5))


def test_tiles_draw_their_own_noise(flextok: ReconstructPipeline) -> None:
    flat = random_picture(1, 1).resize((2 * SIZE, SIZE))
    made = flextok(flat, tile=True, seed=0).images[0]
    left, right = (made.crop((x, 0, x + SIZE, SIZE)) for x in (0, SIZE))
    assert made.size == flat.size and not same([left], [right])


def test_decoding_replaces_single_options(flextok: ReconstructPipeline) -> None:
    one = flextok(PICTURES[0], decoding={"num_inference_steps": 5})
    assert one.settings["decoding"]["num_inference_steps"] == 5
    assert one.settings["decoding"]["guidance_scale"] == 2.0  # the tokenizer's own
    whole = FlowSampling(num_inference_steps=5, guidance_scale=2.0)
    assert same(flextok(PICTURES[0], decoding=whole).images, one.images)


def test_an_error_decides_the_count(karl: ReconstructPipeline) -> None:
    counts = [karl(PICTURES, max_error=error).tokens.lengths.tolist() for error in (0.05, 0.4)]
    assert counts[0] != counts[1]
    alone = [int(karl(picture, max_error=0.05).tokens.lengths) for picture in PICTURES]
    assert alone == counts[0]
    assert karl(PICTURES, num_tokens=2).tokens.lengths.tolist() == [2, 2, 2]


def test_a_renderer_draws_what_has_no_decoder(seed: ReconstructPipeline) -> None:
    out = seed(PICTURES, seed=1)
    assert len(out) == 3 and out.tokens.layout == Sequence1D(4)
    assert same(seed(PICTURES[1], seed=1).images, [out.images[1]])
    assert not same(seed(PICTURES, seed=2).images, out.images)
    with pytest.raises(InputError, match="renderer"):
        ReconstructPipeline(seed.tokenizer)(PICTURES[0])


def test_a_renderer_is_saved_and_loaded(seed: ReconstructPipeline, tmp_path: Any) -> None:
    seed.save_pretrained(tmp_path)
    again = ReconstructPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert same(again(PICTURES[0]).images, seed(PICTURES[0]).images)


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "a knob it lacks": ("vq", {"num_tokens": 3}, "num_tokens=3: VQTokenizer does not take it"),
    "an error it does not know": ("flextok", {"max_error": 0.1}, "it takes num_tokens"),
    "too many tokens": ("flextok", {"num_tokens": 9}, "makes 1 to 8"),
    "no token": ("flextok", {"num_tokens": 0}, "makes 1 to 8"),
    "a negative error": ("karl", {"max_error": -0.1}, "must be 0 or more"),
    "a seed for nothing": ("vq", {"seed": 1}, "decodes without noise"),
    "steps for nothing": ("karl", {"decoding": {"num_inference_steps": 2}}, "decodes without noise"),
    "a seed that is none": ("flextok", {"seed": 1.5}, "must be an integer"),
    "an unknown option": ("flextok", {"decoding": {"steps": 2}}, "steps"),
    "no steps": ("flextok", {"decoding": {"num_inference_steps": 0}}, "num_inference_steps=0"),
    "something else": ("flextok", {"decoding": 4}, "must be a FlowSampling"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_a_tokenizer_does_not_take(
    kind: str, flextok: ReconstructPipeline, karl: ReconstructPipeline
) -> None:
    which, options, told = BAD[kind]
    pipe = {"flextok": flextok, "karl": karl}.get(which) or tiny_pipe("VQTokenizer")
    with pytest.raises(InputError, match=told):
        pipe(PICTURES[0], **options)


def test_points_of_error_against_tokens(flextok: ReconstructPipeline) -> None:
    points = rate_points(flextok, PICTURES[0], [{"num_tokens": 1}, {"num_tokens": 8}])
    assert [point.tokens for point in points] == [1, 8]
    assert points[1].bits == pytest.approx(8 * 3.9069, abs=1e-3)  # log2(5 · 3) bits each
    made = flextok(PICTURES[0], num_tokens=1)
    assert same([points[0].image], made.images)
    real, seen = (
        flextok.tokenizer.preprocess(PICTURES[0]),
        flextok(PICTURES[0], num_tokens=1, output_type="pt"),
    )
    error = (seen.images - (real + 1) / 2).abs().mean()
    assert points[0].l1 == pytest.approx(float(error), abs=1e-6)


def test_what_shows_a_tokenizers_range(flextok: ReconstructPipeline, karl: ReconstructPipeline) -> None:
    assert [one["num_tokens"] for one in usual_knobs(flextok.tokenizer)] == [1, 2, 4, 8]
    assert [one["max_error"] for one in usual_knobs(karl.tokenizer)] == [0.05, 0.1, 0.2, 0.3, 0.4]
    assert usual_knobs(tiny_pipe("VQTokenizer").tokenizer) == [{}]
    assert doubling(1, 1) == [1] and doubling(1, 100) == [1, 2, 4, 8, 16, 32, 64, 100]


def test_pixel_errors() -> None:
    black, grey = torch.full((1, 3, 4, 4), -1.0), torch.full((1, 3, 4, 4), -0.6)
    l1, psnr = pixel_errors(grey, black)
    assert l1 == pytest.approx(0.2) and psnr == pytest.approx(13.979, abs=1e-3)
    assert pixel_errors(black - 5, black) == (0.0, float("inf"))  # clamped
    assert pixel_errors(torch.full((1, 3, 8, 8), -0.6), black)[0] == pytest.approx(0.2)


def test_shipped_tokenizers_are_told_once() -> None:
    names = shipped_tokenizers()
    assert {"scenes-var", "scenes-vq"} <= set(names)
    assert not {"scenes-ar", "scenes-ar-shuffle", "scenes-ar-drafter"} & set(names)
