"""Streaming sums and the Fréchet distance, against torch-fidelity's own."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)

from visgen.evaluation.bootstrap import centred, mean_interval, resampled_interval
from visgen.evaluation.statistics import FeatureStatistics, FeatureSums, frechet_distance, half


def features(count, dims, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dims, dims, generator=generator, dtype=torch.float64)
    return torch.randn(count, dims, generator=generator, dtype=torch.float64) @ mixing + shift


def statistics(rows):
    return FeatureSums.of(rows).statistics()


@pytest.mark.parametrize("dims", [2, 16, 128])
@pytest.mark.parametrize("shift", [0.0, 3.0, 1000.0])
def test_fid_is_that_of_torch_fidelity(dims, shift):
    first, second = features(400, dims, 0), features(300, dims, 1, shift)
    theirs = [fid_features_to_statistics(rows) for rows in (first, second)]
    expected = fid_statistics_to_metric(*theirs, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(statistics(first), statistics(second)) == pytest.approx(expected, rel=1e-6)


def test_fid_of_fewer_images_than_dimensions():
    first, second = (features(50, 600, seed).float().relu() for seed in (0, 1))
    means = [rows.double().mean(0).numpy() for rows in (first, second)]
    # exactly: the rows themselves, centred, are roots of the covariances
    roots = [(r.double().numpy() - mean) / np.sqrt(49) for r, mean in zip((first, second), means)]
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    expected = ((means[0] - means[1]) ** 2).sum() + sum((root**2).sum() for root in roots) - 2 * cross
    assert frechet_distance(statistics(first), statistics(second)) == pytest.approx(expected, rel=1e-6)


def test_fid_of_singular_covariances():
    zero, line = np.zeros((2, 2)), np.diag([4.0, 0.0])
    mean = np.zeros(2)
    point, spread = FeatureStatistics(mean, zero), FeatureStatistics(mean + 1, line)
    assert frechet_distance(point, spread) == pytest.approx(2 + 4)
    assert frechet_distance(spread, spread) == 0
    other = FeatureStatistics(mean, np.diag([0.0, 9.0]))
    assert frechet_distance(other, FeatureStatistics(mean, line)) == pytest.approx(13)
    assert half(line).shape == (2, 1) and half(zero).shape == (2, 0)


def test_fid_is_symmetric_and_zero_for_the_same():
    first, second = statistics(features(200, 8, 0)), statistics(features(200, 8, 1, 1.0))
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-10)
    assert frechet_distance(first, first) < 1e-9 * np.trace(first.covariance)


@pytest.mark.parametrize("cuts", [[1], [3, 4], [50], [10, 20, 30, 40]])
def test_sums_of_parts_are_the_sums_of_the_whole(cuts):
    rows = features(60, 5, 2, shift=10.0)
    parts = [FeatureSums.of(part) for part in torch.tensor_split(rows, cuts)]
    merged = parts[0]
    for part in parts[1:][::-1]:
        merged = merged + part
    whole = merged.statistics()
    assert whole.count == 60
    np.testing.assert_allclose(whole.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(rows.numpy(), rowvar=False), rtol=1e-10)


def test_float32_features_are_summed_in_double_precision():
    rows = 1000 + torch.randn(10_000, 1, generator=torch.Generator().manual_seed(0)) / 10
    found = statistics(rows).covariance[0, 0]
    assert found == pytest.approx(rows.double().var().item(), rel=1e-6)
    assert (rows.square().mean() - rows.mean() ** 2).item() != pytest.approx(found, rel=0.1)


def test_intervals_hold_the_value_and_shrink_with_the_number_of_images():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=50), rng.normal(size=5000)
    widths = []
    for values in (few, many):
        low, high = mean_interval(values, seed=1)
        assert low < values.mean() < high
        assert (low, high) == mean_interval(values, seed=1) != mean_interval(values, seed=2)
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * 1.96 * few.std() / np.sqrt(50), rel=0.15)
    assert widths[1] < widths[0] / 5


def test_the_interval_of_a_fid_holds_it_though_resamples_are_biased():
    rows, reference = features(300, 8, 0).numpy(), statistics(features(300, 8, 0, 0.05))
    draws = []

    def distance(some):
        draws.append(frechet_distance(FeatureSums.of_array(some).statistics(), reference))
        return draws[-1]

    value = distance(rows)
    low, high = resampled_interval(value, rows, distance, seed=0)
    assert np.mean(draws[1:]) > value
    assert low < value < high
    assert centred(1.0, np.array([5.0, 5.0])) == (1.0, 1.0)
