"""Cropping, rounding and layout of the papers' scripts."""

import numpy as np
import pytest
import torch
from PIL import Image

from visgen.data.paper_pixels import adm_center_crop, padded_grid, resize_bicubic, to_uint8_by
from visgen.errors import InputError


def level(value, rounding):
    return int(to_uint8_by(torch.full((1, 3, 1, 1), value), rounding)[0, 0, 0, 0])


def test_rounding_rules():
    one = 1 / 127.5  # a level
    assert [level(-1 + 10 * one + part * one, "truncate") for part in (0.01, 0.49, 0.99)] == [10, 10, 10]
    assert [level(-1 + 10 * one + part * one, "adm") for part in (0.01, 0.49, 0.51)] == [10, 10, 11]
    assert [level(value, rule) for rule in ("adm", "truncate", "half_up") for value in (-3.0, 3.0)] == [
        0,
        255,
    ] * 3
    with pytest.raises(InputError, match="half_up"):
        level(0.0, "up")


def test_center_crop_keeps_the_middle():
    pixels = np.zeros((40, 90, 3), dtype=np.uint8)
    pixels[:, 40:50] = 255
    out = np.array(adm_center_crop(Image.fromarray(pixels), 10))
    assert out.shape == (10, 10, 3) and out[5, 5, 0] > 200 and out[5, 0, 0] < 30


@pytest.mark.parametrize("size", [(10, 10), (11, 300), (20, 21), (300, 11)])
def test_center_crop_of_any_shape(size):
    assert adm_center_crop(Image.new("RGB", size), 10).size == (10, 10)


def test_grid():
    images = np.full((5, 2, 3, 3), 7, dtype=np.uint8)
    grid = padded_grid(images)
    assert grid.shape == (2 * 4 + 2, 4 * 5 + 2, 3) and int((grid[..., 0] == 7).sum()) == 5 * 6
    assert padded_grid(images[:1]).shape == (6, 7, 3)


def test_bicubic_is_not_antialiased():
    stripes = torch.tensor([1.0, -1.0]).repeat(16).expand(1, 3, 32, 32)
    assert resize_bicubic(stripes, 8).abs().max() < 0.3  # even weights on both kinds
    assert resize_bicubic(stripes, 32).equal(stripes)
