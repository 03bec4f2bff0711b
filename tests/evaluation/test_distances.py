"""KID, Inception Score, precision and recall: their formulas on small sets, their seeds."""

import pytest
import torch

from tests.evaluation.stand_in import TOY
from visgen.evaluation.distances import inception_score, kid, precision_recall
from visgen.evaluation.protocols import EvaluationProtocol


def rows(count, dims=4, seed=0, shift=0.0):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)) + shift


def unbiased_mmd(x, y):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    same = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return (same - 2 * xy.mean()).item()


def test_kid_of_one_subset_is_the_unbiased_mmd():
    x, y = rows(8).double(), rows(8, seed=1, shift=1.0).double()
    # half of sixteen images: with each image twice in a row, some subset differs; with equal halves none does
    protocol = EvaluationProtocol(**{**TOY.to_dict(), "kid_subsets": 400})
    found = kid(torch.cat([x, x]), torch.cat([y, y]), protocol, seed=0)
    assert found["subset_size"] == 8 and found["std"] > 0
    assert found["value"] > 0.5
    exact = EvaluationProtocol(**{**TOY.to_dict(), "kid_subsets": 2000})
    many = kid(rows(64), rows(64, seed=1, shift=1.0), exact, seed=0)
    expected = unbiased_mmd(rows(64).double(), rows(64, seed=1, shift=1.0).double())
    assert many["value"] == pytest.approx(expected, rel=0.02)


def test_kid_is_seeded_and_near_zero_for_one_distribution():
    x, y = rows(400), rows(400, seed=1)
    assert kid(x, y, TOY, 3) == kid(x, y, TOY, 3) != kid(x, y, TOY, 4)
    assert abs(kid(x, y, TOY, 3)["value"]) < 0.05
    assert kid(x, rows(400, seed=1, shift=1.0), TOY, 3)["value"] > 1


def test_inception_score_of_sure_and_balanced_classes_is_their_number():
    sure = torch.eye(10).repeat(40, 1) * 1000
    plain = EvaluationProtocol(**{**TOY.to_dict(), "is_splits": 1})
    assert inception_score(sure, plain, 0)["value"] == pytest.approx(10)
    assert inception_score(torch.zeros(400, 10), TOY, 0) == {
        "value": pytest.approx(1),
        "std": pytest.approx(0),
    }


def test_precision_and_recall_tell_apart_what_is_wrong():
    real = rows(200)
    assert precision_recall(real, real, TOY) == (1.0, 1.0)
    assert precision_recall(real + 100, real, TOY) == (0.0, 0.0)
    precision, recall = precision_recall(real / 10, real, TOY)  # all of it plausible, little of it covered
    assert precision > 0.95 and recall < 0.2
    precision, recall = precision_recall(real * 10, real, TOY)
    assert precision < 0.2 and recall > 0.8
