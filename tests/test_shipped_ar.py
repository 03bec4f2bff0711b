"""`scenes-ar` and `scenes-ar-shuffle` draw what is asked, under every strategy, from one tokenizer."""

import numpy as np
import pytest
import torch

import visgen
import visgen.shipped
from visgen.data.scenes import Scenes
from visgen.decoding import STRATEGIES

MODELS = ("scenes-ar", "scenes-ar-shuffle")
LOSSLESS = ("sequential", "sjd", "jacobi", "speculative", "recycling")


@pytest.fixture(scope="module")
def pipes():
    pipes = {name: visgen.load(name) for name in MODELS}
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


def right(pipe, count, **options):
    """Share of held-out captions whose picture shows all that they say."""
    from visgen.data.images import to_uint8
    from visgen.evaluation.scenes.adherence import verdicts

    batch = Scenes("validation", count, balanced=True).batch(range(count))
    result = pipe(batch.captions, seed=0, ordinals=range(count), output_type="pt", **options)
    pixels = torch.from_numpy(to_uint8(result.images * 2 - 1)).permute(0, 3, 1, 2)
    return np.mean([verdict.correct for verdict in verdicts(pixels, batch.scenes)]), result.stats


@pytest.mark.parametrize("name", MODELS)
def test_most_held_out_captions_are_drawn_right(pipes, name):
    assert right(pipes[name], 32)[0] >= 0.7


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_every_strategy_draws_and_saves_passes(pipes, strategy):
    share, stats = right(pipes["scenes-ar"], 16, strategy=strategy)
    assert share >= 0.6
    assert stats["lossless"] == (strategy in LOSSLESS)
    if strategy != "sequential":
        assert stats["tokens_per_pass"] > 1.3


def test_lossless_strategies_are_the_registered_ones():
    assert {*LOSSLESS, "lantern"} == set(STRATEGIES.names())


def test_greedy_images_do_not_depend_on_the_strategy(pipes):
    prompts = ["a red circle above a blue square", "three green hearts at night"]
    images = [pipes["scenes-ar"](prompts, seed=0, top_k=1, strategy=name).tokens.ids for name in LOSSLESS]
    for other in images[1:]:
        assert torch.equal(images[0], other)


def test_shared_noise_draws_the_images_of_sequential_decoding(pipes):
    prompts = ["a yellow star", "a large pink ring in a meadow"]
    plain = pipes["scenes-ar"](prompts, seed=4)
    fast = pipes["scenes-ar"](prompts, seed=4, strategy="jacobi", strategy_options={"coupling": "shared"})
    assert torch.equal(plain.tokens.ids, fast.tokens.ids)
    assert sum(fast.stats["passes"]) < 0.6 * sum(plain.stats["passes"])


def test_a_quarter_of_the_steps_by_windows(pipes):
    assert pipes["scenes-ar-shuffle"]("a red circle", seed=0).stats["passes"] == [16]
    assert pipes["scenes-ar"]("a red circle", seed=0).stats["passes"] == [64]


def test_the_tokenizer_is_stored_once(pipes):
    for name in MODELS:
        assert not (visgen.shipped.assets_folder() / name / "tokenizer").exists()
    first, second = (pipes[name].tokenizer.state_dict() for name in MODELS)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_draws_too(name):
    half = visgen.load(name, dtype="bfloat16")
    half.set_progress_bar_config(disable=True)
    image = np.asarray(half("a red circle", seed=0).images[0], np.float32)
    assert image.std() > 10


def test_editing_keeps_the_tokens_of_the_other_half(pipes):
    edit = visgen.load("scenes-ar", task="edit")
    edit.set_progress_bar_config(disable=True)
    source = pipes["scenes-ar"]("a red circle above a blue square", seed=0)
    out = edit(
        source.images[0], "a red circle above a green star", box=(0, 0.5, 1, 1), seed=0, strategy="jacobi"
    )
    before = edit.tokenizer.encode(edit.tokenizer.preprocess(source.images[0])).ids
    assert torch.equal(out.tokens.ids[:, :32], before[:, :32])
    assert not torch.equal(out.tokens.ids[:, 32:], before[:, 32:])
