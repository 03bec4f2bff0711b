"""What a drawing of kept patches shows."""

import numpy as np
import pytest
from PIL import Image

from visgen.data.overlay import OUTLINE, PALE, token_overlay
from visgen.errors import InputError


def red(width, height):
    return Image.new("RGB", (width, height), (200, 0, 0))


def test_kept_patches_keep_their_colour_and_the_others_are_pale():
    made = np.asarray(token_overlay(red(32, 32), (2, 2), [1, 0, 0.5, 1], side=320))
    assert made.shape == (320, 320, 3)
    assert made[80, 80].tolist() == [200, 0, 0]
    pale = round(200 / 3 * (1 - PALE) + 255 * PALE)
    assert made[80, 240].tolist() == [pale] * 3
    assert made[240, 80].tolist() == pytest.approx([(200 + pale) / 2, pale / 2, pale / 2], abs=1)
    assert made[240, 240].tolist() == [200, 0, 0]


def test_a_line_stands_between_what_stayed_and_what_did_not():
    made = np.asarray(token_overlay(red(64, 64), (2, 2), [1, 0, 1, 0], side=64))
    line = (made == OUTLINE).all(-1)
    assert line[:, 31:33].all()
    assert line.sum() == 2 * 64
    assert not (np.asarray(token_overlay(red(64, 64), (4, 4), [1] * 16)) == OUTLINE).all(-1).any()


def test_pictures_of_other_shapes():
    wide = token_overlay(red(90, 40), (2, 5), [1] * 9 + [0], side=100)
    assert wide.size == (180, 80)
    assert np.asarray(wide)[70, 170].min() > 150
    assert token_overlay(red(700, 500), (1, 1), [1]).size == (700, 500)


@pytest.mark.parametrize(
    ("grid", "stay", "told"),
    [
        ((2, 2), [1] * 3, "stay has 3 values for a grid of 2 × 2"),
        ((1, 2), [1, 2], "shares from 0 to 1"),
        ((1, 2), [1, float("nan")], "shares from 0 to 1"),
        ((0, 2), [], "grid of 0 × 2"),
        ((1, 900), [1] * 900, "has no 1 × 900 patches"),
    ],
)
def test_bad_maps_are_refused(grid, stay, told):
    with pytest.raises(InputError, match=told):
        token_overlay(red(32, 32), grid, stay)
