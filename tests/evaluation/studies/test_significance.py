"""Whether a difference is chance, on scores whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.studies.conftest import score
from visgen.evaluation.statistics import FeatureSums, frechet_distance
from visgen.evaluation.studies.kept import Kept
from visgen.evaluation.studies.significance import Side, difference, independent

N = 200


def side(name, values, **more):
    values = np.asarray(values, np.float32)
    return Side(score(float(values.mean())), Kept({name: values}), **more)


def hard_and_easy(shift=0.0, flips=0, seed=0):
    """Values that differ much from image to image, and little between the two sides."""
    rng = np.random.default_rng(seed)
    first = rng.normal(20, 5, N)
    return first, first + shift + rng.normal(0, 0.2, N)


def test_a_small_shift_of_every_image_is_seen_in_pairs_only():
    first, second = hard_and_easy(shift=0.1)
    found = difference("psnr", side("psnr", first), side("psnr", second), paired=True)
    assert found.method == "paired" and found.significant and 0.05 < found.value < 0.15
    assert found.interval[0] > 0 and found.interval[1] < 0.2
    spread = 1.96 * 5 / N**0.5
    entries = [score(v.mean(), v.mean() - spread, v.mean() + spread) for v in (first, second)]
    alone = difference("psnr", Side(entries[0]), Side(entries[1]), paired=True)
    assert alone.method == "intervals" and alone.significant is False
    assert alone.interval[1] - alone.interval[0] == pytest.approx(2 * 2**0.5 * spread)


def test_equals_look_different_about_once_in_twenty():
    found = []
    for seed in range(60):
        first, second = hard_and_easy(seed=seed)
        found.append(difference("psnr", side("psnr", first), side("psnr", second), paired=True).significant)
    assert sum(found) <= 9  # three are expected; more than nine happen once in two thousand


def test_adherence_counts_captions_that_changed_sides():
    first = np.r_[np.ones(180), np.zeros(20)]
    second = first.copy()
    second[:12] = 0
    found = difference("adherence", side("adherence", first), side("adherence", second), paired=True)
    assert found.value == pytest.approx(-0.06) and found.significant
    second[180:190] = 1  # now two fewer in all
    found = difference("adherence", side("adherence", first), side("adherence", second), paired=True)
    assert found.value == pytest.approx(-0.01) and not found.significant


def test_the_same_images_do_not_differ():
    first, _ = hard_and_easy()
    found = difference("l1", side("l1", first), side("l1", first), paired=True)
    assert (found.value, found.interval, found.significant, found.method) == (0, (0, 0), False, "identical")


def features(scale, seed=0):
    return np.random.default_rng(seed).normal(0, scale, (N, 4))


def distance_side(rows, reference):
    value = frechet_distance(FeatureSums.of_array(rows).statistics(), reference)
    return Side(score(value), Kept({"features.generated": rows.astype(np.float32)}), reference)


def test_distances_are_resampled_together():
    reference = FeatureSums.of_array(features(1.0, seed=9)).statistics()
    near, far = distance_side(features(1.1), reference), distance_side(features(1.6), reference)
    worse = difference("fid", near, far, paired=True)
    assert worse.method == "paired" and worse.significant and worse.value > 0
    assert worse.interval[0] < worse.value < worse.interval[1]
    other = distance_side(features(1.1) + np.random.default_rng(1).normal(0, 0.01, (N, 4)), reference)
    assert not difference("fid", near, other, paired=True).significant


def test_distances_of_few_images_are_not_judged():
    reference = FeatureSums.of_array(features(1.0, seed=9)).statistics()
    few = [distance_side(features(scale)[:4], reference) for scale in (1.1, 9.0)]
    found = difference("fid", *few, paired=True)
    assert found.interval[0] > 0 and found.significant is None


def test_percentiles_and_shares_come_of_the_errors():
    errors = np.linspace(0, 0.1, N)
    a, b = side("l1", errors, max_error=0.05), side("l1", errors * 1.5, max_error=0.05)
    for metric, (one, other) in {"l1_p90": (0.09, 0.135), "within": (0.5, 1 / 3)}.items():
        first = Side(score(one), a.kept, max_error=0.05)
        found = difference(metric, first, Side(score(other), b.kept, max_error=0.05), paired=True)
        assert found.method == "paired" and found.significant
        assert found.interval[0] < other - one < found.interval[1]


def test_without_intervals_nothing_is_said():
    found = difference("precision", Side(score(0.5)), Side(score(0.9)), paired=True)
    assert (found.significant, found.interval, found.method) == (None, None, "none")
    assert found.value == pytest.approx(0.4)


def test_other_numbers_of_images_are_not_paired():
    a, b = side("psnr", np.ones(5)), side("psnr", np.ones(6))
    assert difference("psnr", a, b, paired=True).interval is None


def test_intervals_of_a_difference():
    low, high = independent(score(10, 8, 13), score(20, 19, 22))
    assert low == pytest.approx(10 - np.hypot(1, 3)) and high == pytest.approx(10 + np.hypot(2, 2))
