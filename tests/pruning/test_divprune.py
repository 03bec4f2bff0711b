"""Greedy max–min selection: equal to the written-out algorithm, whatever way is taken."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen.errors import InputError
from visgen.pruning import max_min
from visgen.pruning.divprune import divprune_count, divprune_select
from visgen.pruning.max_min import lazy, unit_rows


def features(n, d=8, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def assert_greedy(x, chosen):
    """Each choice is the farthest from those before it, the first from its nearest other; ties up to 1e-5."""
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    distance = 1 - unit @ unit.T
    least = (distance + 10 * torch.eye(len(x))).amin(1)
    for step, token in enumerate(chosen):
        assert least[token] >= least.max() - 1e-5, f"step {step}: {token} is not the farthest"
        least = distance[chosen[: step + 1]].amin(0)
        least[chosen[: step + 1]] = -torch.inf
    assert len(set(chosen)) == len(chosen)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 40), seed=st.integers(0, 10**6), data=st.data())
def test_both_ways_follow_the_written_out_rule(n, seed, data):
    k = data.draw(st.integers(1, n))
    x = features(n, seed=seed)
    for chosen in (divprune_select(x[None], k)[0], lazy(unit_rows(x), k)):
        assert len(chosen) == k
        assert_greedy(x, chosen.tolist())


@pytest.mark.parametrize("kind", ["spread", "clustered"])
def test_many_tokens_need_few_rows(monkeypatch, kind):
    x = (
        features(1500, 16)
        if kind == "spread"
        else features(20, 16)[torch.arange(1500) % 20] + 0.1 * features(1500, 16, 1)
    )
    rows = []
    monkeypatch.setattr(max_min, "LOOKAHEAD", 32)
    leaders = max_min._leaders
    monkeypatch.setattr(max_min, "_leaders", lambda best, pick: rows.append(1) or leaders(best, pick))
    assert_greedy(x, divprune_select(x[None], 60)[0].tolist())
    assert 1 < len(rows) <= 20  # products, for 60 choices


def test_choices_are_nested_and_a_batch_equals_its_images():
    x = torch.stack([features(30, seed=s) for s in range(3)])
    whole = divprune_select(x, 30)
    assert torch.equal(divprune_select(x, 7), whole[:, :7])
    assert torch.equal(torch.cat([divprune_select(row[None], 30) for row in x]), whole)
    assert torch.equal(whole.sort().values, torch.arange(30).expand(3, 30))


@pytest.mark.parametrize("dense", [True, False])
def test_absent_tokens_change_nothing(monkeypatch, dense):
    if not dense:
        monkeypatch.setattr("visgen.pruning.divprune.DENSE_ENTRIES", {"cpu": 0})
    lengths, x = [1, 5, 12], torch.stack([features(12, seed=s) for s in range(3)])
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    chosen = divprune_select(x, 8, mask_BN=mask)
    for row, length in enumerate(lengths):
        alone = divprune_select(x[row : row + 1, :length], min(8, length))[0].tolist()
        assert chosen[row].tolist() == alone + [-1] * (8 - len(alone))


def test_the_length_of_a_token_does_not_matter():
    x = features(20)
    scaled = x * torch.linspace(0.1, 9, 20)[:, None]
    assert torch.equal(divprune_select(scaled[None], 6), divprune_select(x[None], 6))


def test_duplicates_come_last_and_no_token_twice():
    x = torch.eye(6).repeat(2, 1)[None]
    assert divprune_select(x, 12)[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    official = divprune_select(x, 12, strict=False)[0].tolist()
    assert official == [0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0]
    assert sorted(lazy(x[0], 12).tolist()) == list(range(12))


def test_a_zero_vector_is_at_distance_1():
    x = torch.cat([torch.zeros(1, 3), torch.eye(3), torch.tensor([[0.0, 0.0, -1.0]])])
    assert divprune_select(x[None], 5)[0].tolist() == [0, 1, 2, 3, 4]
    assert divprune_select(x[None, 1:], 4)[0].tolist() == [0, 1, 2, 3]
    close = torch.tensor([[1.0, 0, 0], [1, 0.01, 0], [0, 0, 0]])
    assert divprune_select(close[None], 2)[0].tolist() == [2, 0]  # distances 1, then a tie


def test_half_precision_is_scored_in_float32():
    x = features(40).bfloat16()
    assert torch.equal(divprune_select(x[None], 9), divprune_select(x.float()[None], 9))


@pytest.mark.parametrize(
    ("ratio", "n", "kept"), [(0.5, 5, 2), (0.5, 7, 4), (0.001, 9, 1), (1.0, 9, 9), (0.098, 576, 56)]
)
def test_counts_round_halves_to_even_and_keep_one(ratio, n, kept):
    assert divprune_count(ratio, n) == kept


@pytest.mark.parametrize("k", [0, 11, -1])
def test_impossible_counts_are_refused(k):
    with pytest.raises(InputError, match=f"k={k} of 10"):
        divprune_select(features(10)[None], k)


def test_other_bad_input_is_refused():
    with pytest.raises(InputError, match=r"\(B, N, D\)"):
        divprune_select(features(10), 3)
    with pytest.raises(InputError, match=r"ratio=1\.5"):
        divprune_count(1.5, 10)
