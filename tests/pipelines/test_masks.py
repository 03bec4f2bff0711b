"""Boxes and masks say which tokens stay."""

import numpy as np
import pytest
import torch
from PIL import Image

from visgen.errors import InputError
from visgen.pipelines.masks import as_grey, box_region, finest_grid, mask_region
from visgen.tokenizers.tokens import Grid, Scales, Sequence1D


def test_box_rounds_like_the_paper():
    region = box_region((0.1, 0.1, 0.8, 0.8), (8, 8), 64)
    anew = ~region.keep[0]
    assert anew.sum() == 25 and anew[1:6, 1:6].all()  # round(0.8) = 1, round(6.4) = 6
    assert (~region.keep_pixels).sum() == 45 * 45  # round(6.4) = 6, round(51.2) = 51


def test_halves_round_to_even():
    assert (~box_region((0.5 / 8, 0, 2.5 / 8, 1), (8, 8), 64).keep[0]).any(0).tolist() == [True, True] + [
        False
    ] * 6


def test_invert_keeps_the_box():
    box = (0.0, 0.25, 0.5, 1.0)
    assert torch.equal(box_region(box, (8, 8), 64, True).keep, ~box_region(box, (8, 8), 64).keep)


@pytest.mark.parametrize(
    "box", [(0.5, 0, 0.5, 1), (0, 0, 1.1, 1), (-0.1, 0, 1, 1), (0, 0, 1), "box", (float("nan"), 0, 1, 1), 3]
)
def test_bad_boxes(box):
    with pytest.raises(InputError, match="box="):
        box_region(box, (8, 8), 64)


def test_too_small_a_box_tells_the_smallest():
    with pytest.raises(InputError, match=r"8×8.*0\.125 of the width"):
        box_region((0.51, 0.51, 0.53, 0.53), (8, 8), 64)


def test_nothing_left_to_make():
    with pytest.raises(InputError, match="keeps the whole image"):
        box_region((0, 0, 1, 1), (8, 8), 64, invert=True)


def _half(dtype, white, shape=(32, 32)):
    array = np.zeros(shape, dtype)
    array[:, shape[1] // 2 :] = white
    return array


RIGHT_HALF = {
    "bool": _half(bool, True),
    "uint8": _half(np.uint8, 255),
    "zero-one": _half(np.uint8, 1),
    "uint16": _half(np.uint16, 65535),
    "float": _half(np.float32, 1.0),
    "channel": _half(np.float32, 1.0)[..., None],
    "rgb": np.repeat(_half(np.uint8, 255)[..., None], 3, -1),
    "leading": torch.from_numpy(_half(np.float32, 1.0))[None],
    "other size": _half(np.uint8, 255, (100, 10)),
    **{
        mode: Image.fromarray(_half(np.uint8, 255)).convert(mode)
        for mode in ("1", "L", "RGB", "RGBA", "P", "LA", "F", "I")
    },
    "I;16": Image.fromarray(_half(np.uint16, 65535)),
}


@pytest.mark.parametrize("name", RIGHT_HALF)
def test_masks_of_any_kind_equal_the_box(name):
    region = mask_region([RIGHT_HALF[name]], [(32, 32)], (8, 8), 64)
    assert torch.equal(region.keep, box_region((0.5, 0, 1, 1), (8, 8), 64).keep)


def test_mask_follows_the_crop_of_its_image():
    mask = np.zeros((32, 64), np.uint8)
    mask[:, 32:48] = 255  # of a 64×32 image, columns 16 to 48 are the centre crop
    region = mask_region([mask], [(64, 32)], (8, 8), 64)
    assert torch.equal(region.keep, box_region((0.5, 0, 1, 1), (8, 8), 64).keep)


def test_one_mask_per_image():
    left, right = _half(bool, True)[:, ::-1].copy(), _half(bool, True)
    region = mask_region([left, right], [(32, 32)] * 2, (4, 4), 16)
    assert torch.equal(region.keep[0], ~region.keep[1])
    assert torch.equal(region.rows([1, 1]).keep[0], region.keep[1])


def test_bad_masks():
    with pytest.raises(InputError, match="covers no token"):
        mask_region([np.zeros((8, 8))], [(8, 8)], (4, 4), 16)
    with pytest.raises(InputError, match="list of 2 for 3"):
        mask_region([RIGHT_HALF["bool"]] * 2, [(8, 8)] * 3, (4, 4), 16)
    with pytest.raises(InputError, match="floats must be in"):
        as_grey(np.full((4, 4), 2.0))
    with pytest.raises(InputError, match="must be \\(H, W\\)"):
        as_grey(np.zeros((2, 4, 4, 3)))
    with pytest.raises(InputError, match="type str"):
        as_grey("mask.png")


def test_finest_grid():
    assert finest_grid(Scales.square((1, 2, 4))) == (4, 4) and finest_grid(Grid(2, 3)) == (2, 3)
    with pytest.raises(InputError, match="no place in the image"):
        finest_grid(Sequence1D(4))
