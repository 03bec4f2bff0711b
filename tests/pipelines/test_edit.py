"""Editing keeps the tokens of the kept part; reconstruction takes images of any size."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.pipelines.conftest import SIZE, random_picture, same
from visgen.errors import InputError
from visgen.pipelines.edit import EditPipeline
from visgen.pipelines.reconstruct import ReconstructPipeline
from visgen.pipelines.tiles import cut_tiles, lay_tiles, tile_grid

BOX = (0.5, 0.0, 1.0, 1.0)


def finest(tokens):
    return list(tokens.per_scale())[-1].reshape(len(tokens), 4, 4)


@pytest.mark.parametrize("invert", [False, True])
def test_kept_tokens_are_the_source_tokens(edit_pipe, invert):
    image = random_picture()
    out = edit_pipe(image, "a red circle", box=BOX, invert=invert, num_images_per_prompt=4, seed=0)
    source = finest(edit_pipe.tokenizer.encode(edit_pipe.tokenizer.preprocess(image)))
    kept, made = (slice(2, 4), slice(0, 2)) if invert else (slice(0, 2), slice(2, 4))
    assert torch.equal(finest(out.tokens)[..., kept], source[..., kept].expand(4, 4, 2))
    assert not torch.equal(finest(out.tokens)[0][..., made], finest(out.tokens)[1][..., made])
    assert out.prompts == ["a red circle"] * 4 and out.settings["box"] == BOX


def test_mask_equals_box(edit_pipe):
    image = random_picture()
    mask = Image.new("L", (10, 10))
    mask.paste(255, (5, 0, 10, 10))
    assert same(edit_pipe(image, mask=mask, seed=0).images, edit_pipe(image, box=BOX, seed=0).images)


def test_paste_puts_source_pixels_back(edit_pipe):
    image = random_picture()
    out = edit_pipe(image, box=BOX, seed=0, paste=True).images[0]
    plain = edit_pipe(image, box=BOX, seed=0).images[0]
    assert np.array_equal(np.asarray(out)[:, :8], np.asarray(image)[:, :8])
    assert np.array_equal(np.asarray(out)[:, 8:], np.asarray(plain)[:, 8:])
    assert not np.array_equal(np.asarray(plain)[:, :8], np.asarray(image)[:, :8])


def test_same_pixels_alone_and_in_any_batch(edit_pipe):
    images = [random_picture(20 + i, 18, seed=i) for i in range(7)]
    masks = [np.pad(np.ones((6, 6)), ((i, 12 - i), (i, 12 - i))) for i in range(7)]
    together = edit_pipe(images, "a blue square", mask=masks, seed=3, paste=True).images
    again = edit_pipe(
        images[::-1], "a blue square", mask=masks[::-1], seed=3, paste=True, batch_size=3
    ).images
    assert same(again[::-1], together)
    assert same(
        edit_pipe(images[4], "a blue square", mask=masks[4], seed=3, paste=True).images, together[4:5]
    )


def test_several_prompts_for_one_image(edit_pipe):
    out = edit_pipe(random_picture(), ["a red circle", "a blue square"], box=BOX, seed=1)
    assert out.prompts == ["a red circle", "a blue square"] and out.seeds == [(1, 0), (1, 0)]
    assert same(edit_pipe(random_picture(), "a blue square", box=BOX, seed=1).images, out.images[1:])


def test_class_models(class_pipe):
    pipe = EditPipeline.from_pipe(class_pipe)
    assert pipe.generator is class_pipe.generator and pipe.tokenizer is class_pipe.tokenizer
    assert pipe.sampling == class_pipe.sampling
    assert pipe(random_picture(), label=[1, 2], box=BOX, seed=0).labels == [1, 2]
    assert pipe(random_picture(), box=BOX, seed=0).labels == [-1]
    for arguments, told in (
        ({"prompt": "a"}, "knows classes"),
        ({"label": 9}, "label=9"),
        ({"negative_prompt": "a"}, "classes"),
    ):
        with pytest.raises(InputError, match=told):
            pipe(random_picture(), box=BOX, **arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "exactly one of box and mask"),
        ({"box": BOX, "mask": np.ones((4, 4))}, "exactly one of box and mask"),
        ({"box": (0.4, 0.4, 0.41, 0.41)}, "4×4"),
        ({"box": BOX, "label": 1}, "label=1"),
        ({"box": BOX, "prompt": ["a", "red"], "image": [random_picture()] * 3}, "3 images with 2"),
        ({"box": BOX, "image": "cat.png"}, "image of type str"),
        ({"box": BOX, "image": []}, "empty list"),
    ],
)
def test_bad_arguments(edit_pipe, arguments, told):
    with pytest.raises(InputError, match=told):
        edit_pipe(**({"image": random_picture()} | arguments))


def test_from_pipe_shares_and_leaves_alone(text_pipe, edit_pipe, reconstruct_pipe):
    assert edit_pipe.text is text_pipe.text and reconstruct_pipe.tokenizer is text_pipe.tokenizer
    with pytest.raises(InputError, match="EditPipeline needs a generator"):
        EditPipeline.from_pipe(reconstruct_pipe)


def test_reconstruct(reconstruct_pipe):
    images = [random_picture(40, 30), random_picture(), random_picture(9, 200)]
    out = reconstruct_pipe(images)
    assert [image.size for image in out.images] == [(SIZE, SIZE)] * 3 and len(out.tokens) == 3
    assert same(reconstruct_pipe(images[1]).images, out.images[1:2])
    assert reconstruct_pipe(images, output_type="pt").images.shape == (3, 3, SIZE, SIZE)
    assert out.seeds == [None] * 3


def test_progressive(reconstruct_pipe):
    out = reconstruct_pipe([random_picture(), random_picture(seed=1)], progressive=True)
    assert [len(steps) for steps in out.progressive] == [3, 3]
    assert same([steps[-1] for steps in out.progressive], out.images)
    assert reconstruct_pipe(random_picture(), progressive=True, output_type="np").progressive[0].shape == (
        3,
        SIZE,
        SIZE,
        3,
    )


@pytest.mark.parametrize("size", [(SIZE, SIZE), (33, 16), (16, 40), (5, 3), (1, 1), (50, 17)])
def test_tiles_keep_the_size(reconstruct_pipe, size):
    out = reconstruct_pipe(random_picture(*size), tile=True, progressive=True)
    rows, columns = tile_grid(size[1], size[0], SIZE)
    assert out.images[0].size == size and len(out.tokens) == rows * columns
    assert same(out.progressive[0][-1:], out.images)


def test_tiles_of_several_sizes(reconstruct_pipe):
    images = [random_picture(20, 30), random_picture(16, 16)]
    out = reconstruct_pipe(images, tile=True, output_type="np")
    assert [image.shape for image in out.images] == [(30, 20, 3), (16, 16, 3)]
    plain = reconstruct_pipe(images[1], output_type="np").images[0]
    assert np.array_equal(out.images[1], plain)


def test_cutting_and_laying_tiles():
    image = torch.rand(1, 3, 37, 21)
    tiles = cut_tiles(image, 16)
    assert tiles.shape == (6, 3, 16, 16)
    assert torch.equal(lay_tiles(tiles, (3, 2))[..., :37, :21], image)


def test_reconstruct_errors(reconstruct_pipe, text_pipe):
    for images in ([], "cat.png", None):
        with pytest.raises(InputError, match="images"):
            reconstruct_pipe(images)
    with pytest.raises(InputError, match="output_type"):
        ReconstructPipeline(text_pipe.tokenizer)(random_picture(), output_type="jpg")
