"""TokenCorr's redundancy, budget and groups."""

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.noise import Noise
from visgen.pruning import correlation
from visgen.pruning.correlation import (
    density_budget,
    grouped,
    informative_tokens,
    ratio_budget,
    redundant_tokens,
)


def keys(n=50, c=8, seed=0):
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed))


def test_a_blank_image_keeps_one_token_and_a_dense_one_all():
    assert density_budget(redundant_tokens(torch.ones(40, 4), 0.7, 0.1)) == 1
    assert density_budget(redundant_tokens(torch.eye(40), 0.7, 0.1)) == 40


def test_a_token_is_no_partner_of_its_own():
    assert redundant_tokens(torch.ones(1, 4), 0.5, 0.1).tolist() == [False]
    pair = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    assert redundant_tokens(pair, 0.9, 0.5).tolist() == [True, True, False]
    assert redundant_tokens(pair, 0.9, 0.51).tolist() == [False, False, False]  # two partners are needed


def test_chunks_of_rows_change_nothing(monkeypatch):
    whole = redundant_tokens(keys(), 0.3, 0.1), grouped(keys(), torch.tensor([1, 20, 40]))
    monkeypatch.setattr(correlation, "ROWS", 7)
    assert torch.equal(redundant_tokens(keys(), 0.3, 0.1), whole[0])
    assert torch.equal(grouped(keys(), torch.tensor([1, 20, 40])).assign_N, whole[1].assign_N)


def test_groups_hold_every_token_once_and_average_it():
    groups = grouped(keys(), torch.tensor([3, 8, 31]))
    assert groups.assign_N[[3, 8, 31]].tolist() == [0, 1, 2]
    assert int(groups.sizes_K.sum()) == 50
    means = groups.means(keys(seed=1))
    for group in range(3):
        assert torch.allclose(means[group], keys(seed=1)[groups.assign_N == group].mean(0), atol=1e-6)


def test_equal_similarities_go_to_the_lowest():
    groups = grouped(torch.ones(4, 2), torch.tensor([1, 2]))
    assert groups.assign_N.tolist() == [0, 0, 1, 0]


def test_drawn_tokens_are_as_many_and_never_one_without_attention():
    scores = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2])
    for seed in range(5):
        assert informative_tokens(scores, 3, Noise.per_image([(seed, 0)])).tolist() == [1, 3, 4]
    one = [int(informative_tokens(scores, 1, Noise.per_image([(seed, 0)]))) for seed in range(60)]
    assert 20 <= one.count(1) <= 40  # 30 expected


@pytest.mark.parametrize(("ratio", "n", "kept"), [(0.33, 49, 17), (1 / 36, 36, 1), (1e-6, 9, 1), (1.0, 9, 9)])
def test_fixed_ratios_round_up(ratio, n, kept):
    assert ratio_budget(ratio, n) == kept


def test_an_impossible_ratio_is_refused():
    with pytest.raises(InputError, match="ratio=0"):
        ratio_budget(0.0, 5)
