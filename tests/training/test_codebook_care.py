"""Codes counted, placed and restarted."""

from dataclasses import dataclass

import pytest
import torch

from visgen.training.codebook_care import KEPT_VECTORS, CodebookCare


@dataclass(frozen=True)
class Options:
    continuous_steps: int = 0
    restart_every: int = 2
    restart_until: float = 0.5
    restart_margin: float = 0.03


def care(size=6, **options):
    return CodebookCare(torch.zeros(size, 3), Options(**options), steps=100, decay=0.5)


def vectors(count, seed=0):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def test_counts_are_a_moving_average_of_shares():
    one = care(size=2)
    one.observe(vectors(4), torch.tensor([[0, 0], [0, 1]]))
    assert one.counts.tolist() == pytest.approx([0.5 + 0.75, 0.5 + 0.25])


def test_the_last_vectors_of_several_steps_are_kept():
    one = care()
    first, second = vectors(KEPT_VECTORS - 10), vectors(30, seed=1)
    one.observe(first)
    assert int(one.kept) == KEPT_VECTORS - 10
    one.observe(second.view(5, 6, 3))
    assert int(one.kept) == KEPT_VECTORS
    assert torch.equal(one.vectors, torch.cat([first[20:], second]))


def test_all_codes_are_placed_on_different_vectors_when_quantising_begins():
    one, codebook, seen = care(continuous_steps=3), torch.zeros(6, 3), vectors(9)
    one.observe(seen)
    assert "codes_restarted" not in one.after_step(codebook, 1) and not codebook.any()
    assert one.after_step(codebook, 2)["codes_restarted"] == 6
    rows = {int((seen == code).all(1).nonzero()) for code in codebook}
    assert len(rows) == 6
    assert one.counts.tolist() == [1.0] * 6


def test_fewer_vectors_than_codes_are_used_again():
    one, codebook, seen = care(continuous_steps=1), torch.zeros(6, 3), vectors(2)
    one.observe(seen)
    one.after_step(codebook, 0)
    assert sorted((codebook == seen[0]).all(1).tolist()) == [False] * 3 + [True] * 3


def test_dead_codes_move_onto_vectors_when_it_is_time():
    one, codebook, seen = care(), torch.zeros(6, 3), vectors(9)
    for _ in range(20):
        one.observe(seen, torch.tensor([0, 1, 2]))
    assert "codes_restarted" not in one.after_step(codebook, 0)  # every second step
    assert one.after_step(codebook, 1, frozen=True)["codebook_usage"] == 0.5
    assert not codebook.any()
    assert one.after_step(codebook, 1)["codes_restarted"] == 3
    assert not codebook[:3].any() and codebook[3:].any(1).all()
    for _ in range(20):
        one.observe(seen, torch.tensor([0, 1, 2]))
    assert "codes_restarted" not in one.after_step(codebook, 51)  # over


def test_a_resumed_run_goes_on_alike():
    one, codebook = care(), torch.zeros(6, 3)
    for _ in range(20):
        one.observe(vectors(9), torch.tensor([0, 1]))
    other, same = care(), codebook.clone()
    other.load_state_dict(one.state_dict())
    one.after_step(codebook, 1)
    other.after_step(same, 1)
    assert torch.equal(codebook, same) and codebook.any()
