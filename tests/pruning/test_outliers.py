"""The outlier factor on a line equals scikit-learn's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen.pruning.outliers import local_outlier_factor, outlier_ratio

sklearn = pytest.importorskip("sklearn.neighbors")


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 80), k=st.integers(1, 25), repeated=st.integers(0, 30), seed=st.integers(0, 10**6))
def test_factors_equal_scikit_learn(n, k, repeated, seed):
    values = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    values = torch.cat([values, values.amin().expand(repeated)])  # as text scores of kept tokens
    reference = sklearn.LocalOutlierFactor(n_neighbors=min(k, len(values) - 1)).fit(values[:, None].numpy())
    expected = -reference.negative_outlier_factor_
    assert np.allclose(local_outlier_factor(values, k).numpy(), expected, rtol=1e-4)


def test_an_outlier_of_either_side_is_found():
    values = torch.linspace(0, 1, 50)
    values[10], values[20] = 5.0, -5.0
    assert outlier_ratio(values, 10) == 2 / 50


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [3.0] * 30])
def test_nothing_stands_out_of_few_or_equal_numbers(values):
    assert outlier_ratio(torch.tensor(values), 20) == 0
