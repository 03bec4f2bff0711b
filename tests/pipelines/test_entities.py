"""Pipelines of generators of latents (xAR): steps and solver, batches, folders, saving, refusals."""

import json

import pytest
import torch

from tests.pipelines.conftest import make_tokenizer, random_picture, same
from tests.pipelines.entity_models import SAMPLING, xar_class_pipe, xar_text_pipe
from visgen.errors import InputError
from visgen.nn.entity_sampling import EntitySampling
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.edit import EditPipeline
from visgen.pipelines.folder import generate_folder
from visgen.pipelines.loading import load

PROMPTS = ["a red circle", "a blue square", "red and blue"]


@pytest.fixture(scope="module")
def pipe():
    return xar_text_pipe()


def test_the_defaults_are_of_the_generators_family_and_come_back(pipe, tmp_path):
    assert pipe.sampling == EntitySampling(**SAMPLING)
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["sampling"] == SAMPLING
    again = load(tmp_path)
    assert again.sampling == pipe.sampling
    assert same(again(PROMPTS, seed=1).images, pipe(PROMPTS, seed=1).images)


def test_steps_and_solver_decide_the_passes(pipe):
    made = pipe(PROMPTS[0], seed=1, num_inference_steps=6, solver="ode")
    assert (
        made.settings["sampling"] | {"num_inference_steps": 6, "solver": "ode"} == made.settings["sampling"]
    )
    prefix, entities = 1, 4
    assert made.stats["passes"] == [prefix + 6 * entities + entities - 1]
    assert not same(made.images, pipe(PROMPTS[0], seed=1).images)
    assert made.tokens.latents.shape == (1, 16, pipe.generator.config.latent_channels)


def test_an_image_does_not_depend_on_its_batch(pipe):
    together = pipe(PROMPTS, seed=1, num_images_per_prompt=2)
    alone = [pipe(prompt, seed=1, num_images_per_prompt=2).images for prompt in PROMPTS]
    assert same(together.images, [image for images in alone for image in images])
    assert len({image.tobytes() for image in together.images}) == 6
    padded = pipe(PROMPTS, seed=1, batch_size=8, fixed_batch=True)
    assert torch.allclose(padded.tokens.latents, together.tokens.latents[::2], atol=1e-4)


def test_the_prompt_is_heard(pipe):
    red, blue = (pipe(prompt, seed=3, output_type="pt").images for prompt in PROMPTS[:2])
    plain = pipe(PROMPTS[0], seed=3, guidance_scale=1.0, output_type="pt").images
    assert not torch.equal(red, blue)
    assert not torch.equal(red, plain)


def test_steps_are_shown_as_they_come(pipe):
    seen = []
    pipe(PROMPTS[0], seed=1, callback_on_step_end=lambda p, i, n, state: seen.append((i, n, state.images())))
    assert [(i, n) for i, n, _ in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    final = pipe(PROMPTS[0], seed=1).images
    assert same(seen[-1][2], final)
    assert not same(seen[0][2], final)


def test_classes_too():
    pipe = xar_class_pipe()
    made = pipe([2, 4], seed=0, num_inference_steps=3)
    assert [image.size for image in made.images] == [(16, 16)] * 2
    assert same(made.images[1:], pipe(4, seed=0, num_inference_steps=3).images)


def test_a_folder_is_resumed(pipe, tmp_path):
    whole = tmp_path / "whole"
    generate_folder(pipe, PROMPTS, whole, seed=5, num_inference_steps=3)
    files = sorted(whole.glob("*.png"))
    before = [path.read_bytes() for path in files]
    files[1].unlink()
    assert generate_folder(pipe, PROMPTS, whole, seed=5, num_inference_steps=3).made == 1
    assert [path.read_bytes() for path in files] == before
    with pytest.raises(InputError, match="num_inference_steps is 3 there, 4 here"):
        generate_folder(pipe, PROMPTS, whole, seed=5)


def test_bfloat16(pipe):
    half = xar_text_pipe().to(dtype=torch.bfloat16)
    images = half(PROMPTS[0], seed=1, output_type="pt").images
    assert images.isfinite().all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"top_k": 5}, "top_k=5: this model has no such option, only"),
        ({"num_inference_steps": 2}, "num_inference_steps=2"),
        ({"solver": "heun"}, "solver='heun' must be sde or ode"),
        ({"num_tokens": 4}, "always makes all its tokens"),
        ({"strategy": "sjd"}, "XARGenerator takes none"),
    ],
)
def test_what_a_call_refuses(pipe, options, told):
    with pytest.raises(InputError, match=told):
        pipe(PROMPTS[0], **options)


def test_models_of_ids_take_no_steps(text_pipe):
    with pytest.raises(InputError, match="num_inference_steps=5: this model has no such option"):
        text_pipe("a red circle", num_inference_steps=5)


def test_editing_is_refused_in_a_sentence(pipe):
    with pytest.raises(InputError, match="XARGenerator makes latents, of which no part can be kept"):
        EditPipeline.from_pipe(pipe)(random_picture(), box=(0, 0, 1, 0.5))


def test_the_parts_must_fit():
    pipe = xar_class_pipe()
    with pytest.raises(InputError, match="do not fit"):
        ClassToImagePipeline(make_tokenizer(), pipe.generator)
