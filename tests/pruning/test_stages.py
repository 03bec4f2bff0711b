"""Bookkeeping of shortened sequences, on numbers small enough to count."""

from __future__ import annotations

import torch

from visgen.pruning.stages import attention_mask, entering, gather_entries, gather_positions


def places(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def two_rows() -> tuple[torch.Tensor, list[list[torch.Tensor]], list[list[torch.Tensor]]]:
    """Row 0: 7 entries, an image at 2 … 5; row 1: one entry of padding, an image at 1 … 3."""
    valid = torch.tensor([[True] * 7, [False] + [True] * 6])
    return valid, [[places(4, 2)], [places(1, 2, 3)]], [[places(2, 3, 4, 5)], [places(1, 2, 3)]]


def test_what_enters_stands_in_its_order_and_is_padded_on_the_left() -> None:
    stage = entering(*two_rows())
    assert stage.prompt_BL.tolist() == [[0, 0, 1, 4, 2, 6], [1, 2, 3, 4, 5, 6]]
    assert stage.valid_BL.tolist() == [[False] + [True] * 5, [True] * 6]
    assert stage.image_BL.long().tolist() == [[0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]]
    assert stage.padded and stage.counts_B.tolist() == [5, 6]
    assert stage.ranks_BL.tolist() == [[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]


def test_later_stages_find_their_entries_in_earlier_ones() -> None:
    first = entering(*two_rows())
    second, index = first.take([places(1, 2, 4, 5), places(0, 3, 4)])
    assert index.tolist() == [[1, 2, 4, 5], [0, 0, 3, 4]]
    assert second.prompt_BL.tolist() == [[0, 1, 2, 6], [0, 1, 4, 5]]
    assert first.find(second).tolist() == [[1, 2, 4, 5], [0, 0, 3, 4]]
    third, _ = second.take([places(0, 3), places(1, 2)])
    assert not third.padded
    assert first.find(third).tolist() == [[1, 5], [0, 3]] and second.find(third).tolist() == [[0, 3], [1, 2]]


def test_gathering_lets_one_row_stand_for_all() -> None:
    index = torch.tensor([[0, 2], [1, 1]])
    x = torch.arange(6.0).view(1, 3, 2)
    assert gather_entries(x, index).tolist() == [[[0, 1], [4, 5]], [[2, 3], [2, 3]]]
    assert gather_positions(torch.tensor([[5, 6, 7]]), index).tolist() == [[5, 7], [6, 6]]
    three_axes = torch.arange(18).view(3, 2, 3)
    assert gather_positions(three_axes, index).tolist() == [
        [[0, 2], [4, 4]],
        [[6, 8], [10, 10]],
        [[12, 14], [16, 16]],
    ]


def test_masks_are_only_made_where_something_is_padded() -> None:
    stage = entering(*two_rows())
    whole, _ = stage.take([places(1, 2), places(0, 1)])
    assert attention_mask(whole, 2, 0, "sdpa", torch.float32) is None
    seen = attention_mask(stage, 6, 0, "sdpa", torch.float32)
    assert seen is not None and seen.shape == (2, 1, 6, 6)
    assert seen[0, 0].long().tolist()[:3] == [[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0]]
    step = attention_mask(stage, 1, 2, "eager", torch.float32)
    assert step is not None and step.shape == (2, 1, 1, 8)
    assert step[0, 0, 0].lt(-1e30).tolist() == [True] + [False] * 7 and step[1].eq(0).all()
    keys = attention_mask(stage, 1, 1, "flash_attention_2", torch.float32)
    assert keys is not None and keys.tolist() == [[False] + [True] * 6, [True] * 7]
