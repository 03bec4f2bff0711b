"""Rank correlation, beside scipy's."""

import pytest
import torch
from scipy.stats import rankdata, spearmanr

from visgen.evaluation.rank import ranks, spearman


def test_ranks_and_their_correlation():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, a.exp()) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    assert spearman(a, torch.tensor([1.0, 1.0, 2.0, 2.0])) == pytest.approx(0.894427, abs=1e-5)


@pytest.mark.filterwarnings("error")
def test_what_is_constant_goes_with_nothing():
    counts = torch.tensor([4, 4, 4])
    assert spearman(counts, torch.tensor([1, 2, 3])) == spearman(torch.tensor([1, 2, 3]), counts) == 0.0
    assert spearman(counts[:1], counts[:1]) == 0.0


def test_ties_are_those_of_scipy():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 5, (2, 40), generator=generator)
    assert ranks(a).tolist() == (rankdata(a.numpy()) - 1).tolist()
    assert spearman(a, b) == pytest.approx(spearmanr(a.numpy(), b.numpy()).statistic, abs=1e-12)
