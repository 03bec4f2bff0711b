"""Images from 1-D sequences: stopping early, decoders that start from noise, and batches of them."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

import visgen
from tests.pipelines.conftest import random_picture, same
from tests.pipelines.sequences import (
    CODES,
    OWN,
    REGISTERS,
    class_sequences,
    flextok,
    sequence_model,
    text_sequences,
)
from visgen.data.images import to_pil
from visgen.errors import InputError
from visgen.evaluation.subjects import ModelSubject, open_subject
from visgen.nn.flow import FlowSampling
from visgen.nn.noise import Noise
from visgen.pipelines.batching import GPU_ROWS, fixed_shape
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.edit import EditPipeline
from visgen.pipelines.flow_decoding import DECODING
from visgen.pipelines.folder import generate_folder
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.tokenizers.tokens import Sequence1D

PROMPTS = ["a red circle", "a blue square", "a red circle"]


@pytest.fixture(scope="module")
def pipe():
    return text_sequences()


@pytest.fixture(scope="module")
def classes():
    return class_sequences()


@pytest.fixture(params=["prefix", "cross"], scope="module")
def either(request):
    return text_sequences(text_conditioning=request.param)


def test_fewer_tokens_are_the_first_of_all(either):
    whole = either(PROMPTS, seed=5)
    assert whole.tokens.layout == Sequence1D(REGISTERS)
    assert "num_tokens" not in whole.settings
    for count in (1, 3, REGISTERS):
        part = either(PROMPTS, seed=5, num_tokens=count)
        assert part.tokens.layout == Sequence1D(count)
        assert torch.equal(part.tokens.ids, whole.tokens.ids[:, :count])
        assert part.settings["num_tokens"] == count
        assert same(part.images, whole.images) == (count == REGISTERS)


def test_an_image_is_the_decoding_of_its_tokens_from_its_own_noise(pipe):
    """Neither the number of tokens nor the strategy that drew them shows in the noise."""
    for options in ({}, {"num_tokens": 3}, {"strategy": "sjd:4"}):
        made = pipe(PROMPTS, seed=5, output_type="pt", **options)
        noise = Noise.per_image(made.seeds, DECODING)
        expected = pipe.tokenizer.decode(made.tokens, noise=noise)
        assert torch.allclose(made.images, ((expected + 1) / 2).clamp(0, 1), atol=1e-5)


def test_the_same_tokens_of_other_seeds_start_from_other_noise(pipe):
    made = pipe(PROMPTS[0], seed=[1, 2, 1], num_images_per_prompt=3, ordinals=[0, 0, 0], top_k=1)
    assert torch.equal(made.tokens.ids[0], made.tokens.ids[1])
    assert not same(made.images[:1], made.images[1:2])
    assert same(made.images[:1], made.images[2:])


@pytest.mark.parametrize("strategy", [None, "sjd:4", "jacobi:4"])
def test_an_image_is_the_same_in_any_batch(pipe, strategy):
    options = {"seed": 5, "num_tokens": 6, "strategy": strategy}
    whole = pipe(PROMPTS, **options)
    for how in ({"batch_size": 1}, {"batch_size": 2}, {"batch_size": 2, "fixed_batch": True}):
        again = pipe(PROMPTS, **options, **how)
        assert torch.equal(again.tokens.ids, whole.tokens.ids)
        assert same(again.images, whole.images)
    assert same(pipe(PROMPTS[1], **options).images, whole.images[1:2])


def test_classes_stop_early_too(classes):
    whole, part = classes([0, 4], seed=1), classes([0, 4], seed=1, num_tokens=2)
    assert torch.equal(part.tokens.ids, whole.tokens.ids[:, :2])


def test_keywords_of_decoding_replace_single_ones_of_the_tokenizers_own(pipe):
    made = pipe(PROMPTS[0], seed=5, decoding={"num_inference_steps": 1}, output_type="pt")
    wanted = replace(pipe.tokenizer.sampling, num_inference_steps=1)
    assert made.settings["decoding"] == asdict(wanted)
    assert made.settings["decoding"]["guidance_scale"] == OWN["guidance_scale"]
    same_one = pipe(PROMPTS[0], seed=5, decoding=wanted, output_type="pt")
    assert torch.equal(made.images, same_one.images)
    default = pipe(PROMPTS[0], seed=5, output_type="pt")
    assert "decoding" not in default.settings
    assert torch.equal(made.tokens.ids, default.tokens.ids)
    assert not torch.allclose(made.images, default.images, atol=1e-3)
    again = pipe(PROMPTS[0], seed=5, decoding=default.settings.get("decoding", OWN), output_type="pt")
    assert torch.equal(default.images, again.images)


BAD = [
    ({"num_tokens": 0}, "num_tokens=0 must be an integer from 1 to 8"),
    ({"num_tokens": REGISTERS + 1}, "num_tokens=9 must be an integer from 1 to 8"),
    ({"num_tokens": "3"}, "num_tokens='3' must be"),
    ({"decoding": {"steps": 3}}, "unknown key 'decoding.steps'"),
    ({"decoding": {"num_inference_steps": 0}}, "num_inference_steps=0"),
    ({"decoding": {"num_inference_steps": "many"}}, "num_inference_steps='many'"),
    ({"decoding": 3}, "decoding=3 must be a FlowSampling or a mapping"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_what_does_not_fit_is_refused(pipe, classes, options, words):
    for call in (lambda: pipe("a red circle", **options), lambda: classes(1, **options)):
        with pytest.raises(InputError, match=words.replace("(", r"\(")):
            call()


def test_models_of_scales_take_neither(text_pipe):
    with pytest.raises(InputError, match="num_tokens=3: this VARTransformer always makes all its tokens"):
        text_pipe("a red circle", num_tokens=3)
    with pytest.raises(InputError, match="a VARTokenizer decodes without noise"):
        text_pipe("a red circle", decoding=FlowSampling(2))


def test_sequences_have_no_part_to_edit(pipe):
    edit = EditPipeline.from_pipe(pipe)
    with pytest.raises(InputError, match="have no place in the image"):
        edit(random_picture(), "a red circle", box=(0, 0, 0.5, 0.5), seed=0)


def test_noise_follows_its_image_through_padded_batches():
    """Rows of padding draw what the last image draws, and take nothing from it."""
    seeds = [(3, k) for k in range(GPU_ROWS + 1)]

    def draw(values, noise):
        return torch.stack([noise.normal(len(values), 2), noise.normal(len(values), 2)], dim=1)

    values = torch.zeros(len(seeds))
    found = fixed_shape(
        draw, values, torch.device("cuda"), Noise.per_image(seeds)
    )  # nothing is computed there
    alone = [Noise.per_image([seed]) for seed in seeds]
    expected = torch.cat([torch.stack([one.normal(1, 2), one.normal(1, 2)], dim=1) for one in alone])
    assert torch.equal(found, expected)
    assert torch.equal(fixed_shape(draw, values, torch.device("cpu"), Noise.per_image(seeds)), expected)
    with pytest.raises(InputError, match="cannot be cut into rows"):
        Noise.shared(0).rows([0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"length": REGISTERS + 1},
            r"tokens are Sequence1D\(n=8\) of one and Sequence1D\(n=9\) of the other",
        ),
        ({"grid": (2, 4), "length": None}, r"tokens are Sequence1D\(n=8\) of one and Grid\(h=2, w=4\)"),
        ({"codebook_size": CODES + 1}, "codebook_size is 15 of one and 16 of the other"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        ClassToImagePipeline(flextok(), sequence_model(num_classes=5, **options))


def test_a_generator_of_fewer_tokens_than_the_tokenizer_has_fits():
    pipe = ClassToImagePipeline(flextok(), sequence_model(num_classes=5, length=4))
    pipe.set_progress_bar_config(disable=True)
    assert pipe(1, seed=0).tokens.layout == Sequence1D(4)


def test_a_folder_loads_again(either, tmp_path):
    either.save_pretrained(tmp_path)
    again = visgen.load(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    options = {"seed": 5, "num_tokens": 4}
    assert same(again(PROMPTS, **options).images, either(PROMPTS, **options).images)


def test_a_batch_into_a_folder_is_one_length_and_one_way_of_decoding(pipe, tmp_path):
    options = {"seed": 3, "num_tokens": 3, "decoding": {"num_inference_steps": 1}}
    generate_folder(pipe, PROMPTS[:2], tmp_path, **options)
    first = Image.open(tmp_path / "000000_0.png")
    made = pipe(PROMPTS[0], ordinals=[0], **options)
    assert np.array_equal(np.asarray(first), np.asarray(made.images[0]))
    assert generate_folder(pipe, PROMPTS[:2], tmp_path, **options).made == 0
    for other, words in (
        ({"num_tokens": 4}, "num_tokens is 3 there, 4 here"),
        ({"num_tokens": None}, "num_tokens is 3 there, None here"),
        ({"decoding": None}, "decoding is"),
        ({"decoding": {"num_inference_steps": 2}}, "decoding is"),
    ):
        with pytest.raises(InputError, match=words):
            generate_folder(pipe, PROMPTS[:2], tmp_path, **options | other)


def test_an_evaluated_model_draws_and_reconstructs_with_so_many_tokens(pipe):
    steps = {"num_inference_steps": 1}
    subject = ModelSubject("toy", pipe, 2, None, 3, steps)
    made = subject.generate([0, 1], lambda indices: [PROMPTS[i] for i in indices], 0)
    expected = pipe(PROMPTS[:2], seed=0, ordinals=[0, 1], num_tokens=3, decoding=steps)
    assert same(expected.images, [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in made])
    images = torch.from_numpy(np.array(random_picture())).permute(2, 0, 1)[None]
    found, tokens = subject.reconstruct(images)
    assert tokens.ids.shape == (1, 3)
    tokenizer = pipe.tokenizer
    plain = tokenizer.decode(
        tokenizer.encode(tokenizer.preprocess(random_picture()), num_tokens=3),
        sampling=replace(tokenizer.sampling, **steps),
    )
    assert same(to_pil(plain), [Image.fromarray(found[0].permute(1, 2, 0).numpy())])


def test_evaluation_refuses_what_a_subject_cannot_do(text_pipe, pipe, tmp_path):
    with pytest.raises(InputError, match="num_tokens=3"):
        ModelSubject("toy", text_pipe, 2, None, 3)
    with pytest.raises(InputError, match="num_tokens=9"):
        ModelSubject("toy", ReconstructPipeline.from_pipe(pipe), 2, None, 9)
    random_picture().save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"--num-tokens 3: .* is a folder of images"):
        open_subject(str(tmp_path), 2, num_tokens=3)
