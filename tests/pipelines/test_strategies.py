"""Decoding strategies through the pipelines: same law, same seeds, stats, refusals."""

import json

import pytest
import torch

from tests.pipelines.conftest import LENGTH, WORDS, quiet, random_picture
from visgen.decoding.sequential import Sequential
from visgen.errors import InputError
from visgen.generators.raster import RasterTransformer
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.edit import EditPipeline
from visgen.pipelines.folder import generate_folder
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.strategies import merged_stats
from visgen.pipelines.text_to_image import TextToImagePipeline
from visgen.tokenizers.vq import VQTokenizer

CNN = {"ch": 8, "ch_mult": (1, 1, 2), "num_res_blocks": 1, "norm_groups": 4, "latent_channels": 8}


def make_parts(**options):
    torch.manual_seed(0)
    tokenizer = VQTokenizer(image_size=16, codebook_size=32, code_dim=4, **CNN).eval()
    generator = RasterTransformer(
        grid=(4, 4), codebook_size=32, hidden_size=16, depth=2, num_heads=2, mlp_size=32, **options
    ).eval()
    torch.nn.init.normal_(generator.tokens.head.weight, std=0.6)
    return {"tokenizer": tokenizer, "generator": generator}


@pytest.fixture(scope="module")
def pipe():
    text = WordVocabulary.from_words(WORDS, LENGTH)
    options = {"condition": "prompt", "text_length": LENGTH, "text_vocab_size": text.vocab_size}
    sampling = {"guidance_scale": 2.0, "top_k": 16}
    return quiet(TextToImagePipeline(**make_parts(**options), text=text, sampling=sampling))


@pytest.fixture(scope="module")
def classes():
    return quiet(ClassToImagePipeline(**make_parts(num_classes=5)))


def test_one_token_per_pass_without_a_strategy(pipe):
    result = pipe(["a red circle", "a blue square"], seed=1)
    assert result.stats["passes"] == [16, 16]
    assert result.stats["tokens_per_pass"] == 1.0
    assert "strategy" not in result.settings


@pytest.mark.parametrize("strategy", ["sjd", "sjd:4", "jacobi", "recycling", Sequential()], ids=str)
def test_a_strategy_by_name_or_instance(pipe, strategy):
    result = pipe("a red circle", seed=1, strategy=strategy)
    assert result.stats["lossless"]
    assert 1 <= result.stats["passes"][0] <= 16
    assert result.images[0].size == (16, 16)
    assert json.dumps(result.stats)


def test_shared_noise_gives_the_images_of_sequential_decoding(pipe):
    prompts = ["a red circle", "a blue square", "red and blue"]
    plain = pipe(prompts, seed=5)
    fast = pipe(prompts, seed=5, strategy="jacobi", strategy_options={"coupling": "shared"})
    assert torch.equal(plain.tokens.ids, fast.tokens.ids)
    assert sum(fast.stats["passes"]) < sum(plain.stats["passes"])


def test_an_image_does_not_depend_on_its_batch_under_a_strategy(pipe):
    prompts = ["a red circle", "a blue square", "red and blue"]
    together = pipe(prompts, seed=5, strategy="jacobi:6")
    small = pipe(prompts, seed=5, strategy="jacobi:6", batch_size=2, fixed_batch=True)
    alone = pipe(prompts[1], seed=5, strategy="jacobi:6")
    assert torch.equal(together.tokens.ids, small.tokens.ids)
    assert torch.equal(together.tokens.ids[1:2], alone.tokens.ids)
    assert together.stats["passes"][1] == alone.stats["passes"][0]
    assert len(small.stats["passes"]) == 3


def test_steps_are_reported_once_per_token(pipe):
    seen = []
    pipe(
        "a red circle", seed=1, strategy="jacobi", callback_on_step_end=lambda p, i, n, s: seen.append((i, n))
    )
    assert seen == [(i, 16) for i in range(len(seen))]
    assert len(seen) >= 15


def test_classes_and_edits_take_strategies_too(classes):
    assert classes([1, 2], seed=0, strategy="sjd").stats["lossless"]
    edit = quiet(EditPipeline.from_pipe(classes))
    source = random_picture()
    result = edit(source, label=1, box=(0, 0.5, 1, 1), seed=3, strategy="jacobi")
    before = classes.tokenizer.encode(classes.tokenizer.preprocess(source)).ids
    assert torch.equal(result.tokens.ids[:, :8], before[:, :8])
    assert result.stats["passes"][0] <= 16


def test_a_folder_of_prompts_with_a_strategy(pipe, tmp_path):
    rows = ["a red circle", "a blue square"]
    assert generate_folder(pipe, rows, tmp_path, seed=3, strategy="jacobi").made == 2
    assert generate_folder(pipe, rows, tmp_path, seed=3, strategy="jacobi").made == 0
    with pytest.raises(InputError, match="strategy"):
        generate_folder(pipe, rows, tmp_path, seed=3, strategy="sjd")


def test_a_model_of_scales_takes_none(text_pipe):
    with pytest.raises(InputError, match="only next-token"):
        text_pipe("a red circle", strategy="sjd")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "sdj"}, "sjd"),
        ({"strategy": "sjd:zero"}, "zero"),
        ({"strategy": "sjd:0"}, "window=0"),
        ({"strategy": "sjd", "strategy_options": {"windows": 3}}, "window"),
        ({"strategy_options": {"window": 3}}, "need a strategy"),
        ({"strategy": "speculative"}, "drafter"),
        ({"strategy": 3}, "3"),
    ],
)
def test_bad_strategies_are_refused_in_one_sentence(pipe, options, words):
    with pytest.raises(InputError, match=words) as error:
        pipe("a red circle", **options)
    assert "\n" not in str(error.value)


def test_stats_of_micro_batches_are_put_together():
    parts = [
        {"passes": [3, 4], "tokens": 8, "tokens_per_pass": 2.0, "seconds": 1.0, "tested": [1, 2]},
        {"passes": [8, 9], "tokens": 8, "tokens_per_pass": 1.0, "seconds": 0.5, "tested": [0, 1]},
    ]
    merged = merged_stats(parts, [2, 1])
    assert merged["passes"] == [3, 4, 8]
    assert merged["tokens_per_pass"] == pytest.approx(24 / 15)
    assert merged["seconds"] == 1.5
    assert merged["tested"] == [1, 3]
    assert merged_stats([], []) == {}


def test_a_saved_model_keeps_its_parts(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = quiet(TextToImagePipeline.from_pretrained(tmp_path))
    assert again.drafter is None
    assert torch.equal(pipe("a red circle", seed=2).tokens.ids, again("a red circle", seed=2).tokens.ids)
