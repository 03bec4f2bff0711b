"""Text to image and class to image: types, seeds, batch invariance, callbacks, messages."""

import copy
import warnings

import numpy as np
import pytest
import torch

from tests.pipelines.conftest import SIZE, make_generator, make_tokenizer, same
from visgen.errors import InputError
from visgen.pipelines.class_to_image import ClassToImagePipeline
from visgen.pipelines.options import DEFAULT
from visgen.pipelines.prompts import WordVocabulary
from visgen.pipelines.text_to_image import TextToImagePipeline

PROMPTS = [
    "a red circle",
    "a blue square",
    "a red circle",
    "",
    "blue above red",
    "a circle and a square",
    "a red circle",
]


def test_output(text_pipe):
    out = text_pipe(["a red circle", "a blue square"], num_images_per_prompt=2, seed=3)
    assert [image.size for image in out.images] == [(SIZE, SIZE)] * 4 and len(out) == 4
    assert out.prompts == ["a red circle"] * 2 + ["a blue square"] * 2 and out.labels is None
    assert out.seeds == [(3, 0), (3, 1), (3, 0), (3, 1)]
    assert len(out.tokens) == 4 and out.tokens.layout == text_pipe.tokenizer.layout
    assert out.settings["sampling"]["guidance_scale"] == 2.0 and out.settings["dtype"] == "float32"


def test_output_types(text_pipe):
    options = {"prompt": ["a red circle"] * 3, "seed": 0, "batch_size": 2}
    pil = text_pipe(**options).images
    array = text_pipe(**options, output_type="np").images
    tensor = text_pipe(**options, output_type="pt").images
    assert (
        array.shape == (3, SIZE, SIZE, 3)
        and array.dtype == np.float32
        and array.min() >= 0
        and array.max() <= 1
    )
    assert tensor.shape == (3, 3, SIZE, SIZE) and tensor.dtype == torch.float32
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert np.abs(np.stack([np.asarray(image) for image in pil]) / 255 - array).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("smooth", [False, True])
def test_same_pixels_alone_and_in_any_batch(text_pipe, smooth):
    together = text_pipe(PROMPTS, seed=7, smooth=smooth)
    for options in ({"batch_size": 3}, {"batch_size": 4, "fixed_batch": not smooth}, {"batch_size": 1}):
        assert same(text_pipe(PROMPTS, seed=7, smooth=smooth, **options).images, together.images)
    for row in (1, 3, 4, 5):  # the prompts that stand once
        assert same(text_pipe(PROMPTS[row], seed=7, smooth=smooth).images, [together.images[row]])
    reds = text_pipe("a red circle", num_images_per_prompt=3, seed=7, smooth=smooth).images
    assert same(reds, [together.images[row] for row in (0, 2, 6)])
    backwards = text_pipe(PROMPTS[::-1], seed=7, smooth=smooth).images[::-1]
    assert same([backwards[row] for row in (1, 3, 4, 5)], [together.images[row] for row in (1, 3, 4, 5)])
    assert same([backwards[row] for row in (6, 2, 0)], [together.images[row] for row in (0, 2, 6)])


@pytest.mark.parametrize("options", [{"smooth": True}, {"dtype": torch.bfloat16}])
def test_fixed_batches_are_the_same_where_rounding_shows(text_pipe, options):
    options = dict(options)
    components = {name: copy.deepcopy(part) for name, part in text_pipe.components.items()}
    pipe = TextToImagePipeline(**components).to(options.pop("dtype", torch.float32))
    pipe.set_progress_bar_config(disable=True)
    options |= {"seed": 7, "batch_size": 4, "fixed_batch": True}
    together = pipe(PROMPTS, **options).images
    for row in (1, 3, 4, 5):
        assert same(pipe(PROMPTS[row], **options).images, [together[row]])


def test_seeds_give_different_images_and_are_reported(text_pipe):
    fresh = text_pipe("a red circle", num_images_per_prompt=2)
    assert not same(fresh.images[:1], fresh.images[1:])
    assert same(
        text_pipe("a red circle", num_images_per_prompt=2, seed=fresh.seeds[0][0]).images, fresh.images
    )
    each = text_pipe(["a red circle"] * 2, seed=[5, 6])
    assert same(text_pipe("a red circle", seed=6).images, each.images[1:])


def test_torch_generators(text_pipe):
    first, again = (text_pipe(PROMPTS, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert same(first.images, again.images)
    replay = text_pipe(PROMPTS, seed=[seed for seed, _ in first.seeds])
    assert same(replay.images, first.images)


def test_global_random_state_is_neither_used_nor_moved(text_pipe):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = text_pipe("a red circle", seed=1).images
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert same(text_pipe("a red circle", seed=1).images, first)


def test_default_sampling_and_overrides(text_pipe):
    assert same(
        text_pipe("a red circle", seed=1, top_k=DEFAULT).images, text_pipe("a red circle", seed=1).images
    )
    assert text_pipe("a", seed=1, top_k=None, guidance_scale=1).settings["sampling"]["top_k"] is None
    greedy = text_pipe("a red circle", num_images_per_prompt=2, top_k=1, seed=1).images
    assert same(greedy[:1], greedy[1:])
    assert text_pipe.sampling.top_k == 16


def test_negative_prompt_changes_the_image(text_pipe):
    plain = text_pipe("a red circle", seed=1, guidance_scale=5.0)
    negative = text_pipe("a red circle", negative_prompt="blue square", seed=1, guidance_scale=5.0)
    assert not torch.equal(plain.tokens.ids, negative.tokens.ids)
    assert negative.settings["negative_prompt"] == "blue square"


def test_unknown_words_warn_once_in_one_line(text_pipe):
    with pytest.warns(UserWarning) as caught:
        text_pipe(["a green circle", "a green dog"], seed=0)
    message = str(caught[0].message)
    assert (
        len(caught) == 1
        and "'green', 'dog'" in message
        and "it knows: a, red" in message
        and "\n" not in message
    )
    assert caught[0].filename == __file__


def test_callback_sees_the_image_so_far(text_pipe):
    seen = []

    def callback(pipe, step, total, state):
        assert pipe is text_pipe
        seen.append((step, total, state.rows, state.images()))

    out = text_pipe(
        ["a red circle"] * 3, seed=2, batch_size=2, fixed_batch=True, callback_on_step_end=callback
    )
    assert [(step, total, rows) for step, total, rows, _ in seen] == [
        *((step, 3, range(0, 2)) for step in range(3)),
        *((step, 3, range(2, 3)) for step in range(3)),
    ]
    assert same(seen[2][3] + seen[5][3], out.images)


def test_progress_bar_counts_all_steps(text_pipe, capsys):
    text_pipe.set_progress_bar_config(disable=False)
    try:
        text_pipe(["a red circle"] * 3, seed=0, batch_size=2)
    finally:
        text_pipe.set_progress_bar_config(disable=True)
    assert "6/6" in capsys.readouterr().err


def test_classes(class_pipe):
    out = class_pipe([1, -1, 1], num_images_per_prompt=2, seed=4)
    assert out.labels == [1, 1, -1, -1, 1, 1] and out.prompts is None
    assert out.seeds == [(4, 0), (4, 1), (4, 0), (4, 1), (4, 2), (4, 3)]
    assert same(class_pipe(-1, seed=4).images, out.images[2:3])
    assert same(class_pipe(torch.tensor([1]), seed=4).images, out.images[:1])


def test_random_classes_come_from_the_seed(class_pipe):
    out = class_pipe(num_images_per_prompt=8, seed=1)
    assert len(set(out.labels)) > 1 and set(out.labels) <= set(range(5))
    assert class_pipe(num_images_per_prompt=8, seed=1).labels == out.labels
    assert same(class_pipe(out.labels, seed=1).images, out.images)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prompt": []}, "prompt="),
        ({"prompt": 3}, "prompt=3"),
        ({"prompt": ["a", None]}, "prompt="),
        ({"prompt": "a a a a a a a"}, "7 words"),
        ({"prompt": "a", "negative_prompt": ["a", "b"]}, "negative_prompt"),
        ({"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt=0"),
        ({"prompt": "a", "batch_size": 1.5}, "batch_size=1.5"),
        ({"prompt": "a", "output_type": "jpg"}, "output_type='jpg'"),
        ({"prompt": "a", "top_k": 0}, "top_k=0"),
        ({"prompt": "a", "guidance_scale": "high"}, "wrong type"),
        ({"prompt": "a", "guidance_schedule": "liner"}, "did you mean linear"),
        ({"prompt": "a", "seed": 1, "generator": torch.Generator()}, "both given"),
    ],
)
def test_bad_arguments(text_pipe, arguments, told):
    with warnings.catch_warnings(), pytest.raises(InputError, match=told):
        warnings.simplefilter("ignore")
        text_pipe(**arguments)


@pytest.mark.parametrize("label", [5, -2, [], "cat", 1.5, True, [0, 7]])
def test_bad_labels(class_pipe, label):
    with pytest.raises(InputError, match="label="):
        class_pipe(label)


def test_components_that_do_not_fit():
    text = WordVocabulary.from_words(["a"], 3)
    with pytest.raises(InputError, match="use ClassToImagePipeline"):
        TextToImagePipeline(make_tokenizer(), make_generator(), text)
    prompted = make_generator(condition="prompt", text_length=4, text_vocab_size=3)
    with pytest.raises(InputError, match="use TextToImagePipeline"):
        ClassToImagePipeline(make_tokenizer(), prompted)
    with pytest.raises(InputError, match="gives 3 words, but the generator was made for 4"):
        TextToImagePipeline(make_tokenizer(), prompted, text)
    with pytest.raises(InputError, match="does not fit TokenSampling"):
        ClassToImagePipeline(make_tokenizer(), make_generator(), {"warmth": 3})


def test_offloaded_components_wake_when_needed(text_pipe):
    pytest.importorskip("accelerate")
    pipe = TextToImagePipeline(**{name: copy.deepcopy(part) for name, part in text_pipe.components.items()})
    pipe.set_progress_bar_config(disable=True)
    plain = pipe("a red circle", seed=0).images
    pipe.enable_model_cpu_offload(device="cpu")  # the hooks of a GPU, on the only device there is here
    decoded = []
    out = pipe("a red circle", seed=0, callback_on_step_end=lambda *step: decoded.append(step[3].images()))
    assert same(out.images, plain) and same(decoded[-1], plain)
