"""GlobalCom²'s allocation and geometry where the answer is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen.pruning.anyres import Canvas, Region, with_line_ends
from visgen.pruning.globalcom2_scores import (
    all_crop_tokens,
    crop_ratios,
    crop_tokens,
    global_scores,
    thumbnail_tokens,
)


def scores(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    ratio=st.floats(0.01, 1.0),
    seed=st.integers(0, 10**6),
)
def test_whatever_the_shape_crops_keep_their_share_of_unpadded_tokens(rows, columns, size, ratio, seed):
    canvas = Canvas(rows, columns, 6)
    region = canvas.unpadded(size)
    thumbnail, crops = scores(36, seed=seed), scores(rows * columns, 36, seed=seed + 1)
    kept, seen = all_crop_tokens(thumbnail, crops, canvas, region, ratio)
    ratios = crop_ratios(thumbnail, canvas, ratio)
    assert float(ratios.max()) <= 1 and float(ratios.mean()) <= ratio + 1e-9
    assert sum(map(len, seen)) == region.size[0] * region.size[1]
    for choice, valid, share in zip(kept, seen, ratios.tolist()):
        assert len(choice) == int(len(valid) * share)
        assert len(choice.unique()) == len(choice) and bool((choice < len(valid)).all())


def test_the_thumbnail_is_ranked_and_equal_scores_keep_their_order():
    assert thumbnail_tokens(torch.tensor([0.0, 3.0, 1.0, 3.0]), 0.75).tolist() == [1, 3, 2]
    assert len(thumbnail_tokens(scores(10), 0.05)) == 0


def test_equal_thumbnails_give_every_crop_the_same():
    assert torch.allclose(crop_ratios(torch.ones(64), Canvas(2, 2, 8), 0.3), torch.full((4,), 0.3).double())


def test_one_bright_corner_takes_the_surplus():
    thumbnail = torch.zeros(8, 8)
    thumbnail[:4, 4:] = 100.0
    ratios = crop_ratios(thumbnail.flatten(), Canvas(2, 2, 8), 0.2)
    assert torch.allclose(ratios, torch.tensor([0.15, 0.35, 0.15, 0.15]).double())
    assert crop_ratios(thumbnail.flatten(), Canvas(2, 2, 8), 0.8)[1] == 1.0


def test_blocks_of_a_grid_that_crops_do_not_divide():
    thumbnail = torch.zeros(5, 5)
    thumbnail[:, 2:] = 1.0  # blocks of 2 columns, the last with 3
    ratios = crop_ratios(thumbnail.flatten(), Canvas(1, 2, 5), 0.5)
    weight = torch.tensor([-1.5, 0.0]).exp()
    assert torch.allclose(ratios.float(), 0.5 * (1 + weight / weight.sum() - 0.5))


def test_global_scores_without_padding_at_scale_1_are_the_thumbnail():
    thumbnail = scores(16)
    assert torch.equal(global_scores(thumbnail, Canvas(1, 1, 4), Region(0, 4, 0, 4))[0], thumbnail)


def test_a_picture_thinner_than_a_token_keeps_nothing():
    canvas = Canvas(1, 2, 4)
    region = canvas.unpadded((1, 2000))
    assert region.size == (0, 8)
    kept, seen = all_crop_tokens(scores(16), scores(2, 16), canvas, region, 0.5)
    assert [len(k) for k in kept] == [len(s) for s in seen] == [0, 0]


def test_local_and_global_scores_count_alike():
    local, above = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([0.0, 500.0, 0.0])
    assert crop_tokens(local, above, 1.0).tolist() == [1, 2, 0]


@pytest.mark.parametrize(("digits", "columns"), [(None, 14), (7, 16)])
def test_transformers_rounds_before_it_drops_the_fraction(digits, columns):
    height, width = 784, 735  # 735 · (16 / 784) is 14.999999999999998
    assert Canvas(2, 2, 8).unpadded((height, width), digits).size == (16, columns)


def test_every_row_ends_with_a_newline():
    tokens = with_line_ends(
        torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([5, 0, 3]), (3, 3), torch.tensor([-1.0])
    )
    assert tokens.flatten().tolist() == [2, -1, 3, 1, -1, -1]
