"""Recoverable Compression where the answer is known, and for any budget."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen.pruning.recovery import Counts, cls_row, fitted, merge_rest, own_counts, recover, text_similarity


def image(n=60, c=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    features, keys = torch.randn(2, n, c, generator=g)
    return features, keys, torch.rand(n, generator=g) / n, torch.randn(n, generator=g) / 30


@settings(max_examples=40, deadline=None)
@given(
    counts=st.builds(Counts, st.integers(0, 20), st.integers(0, 20), st.integers(0, 6)),
    budget=st.integers(1, 60),
)
def test_any_budget_is_met_exactly(counts, budget):
    found = fitted(counts, budget, 60)
    assert found.total == budget and found.visual >= 1
    assert len(recover(*image(), found).features_MC) == budget


def test_proportions_are_kept():
    assert fitted(Counts(10, 20, 9), 20, 100) == Counts(5, 10, 4)
    assert fitted(Counts(10, 20, 9), 1, 100) == Counts(1, 0, 0)


def test_a_budget_of_all_keeps_every_token_as_it_is():
    features, *rest = image()
    assert torch.equal(recover(features, *rest, fitted(Counts(3, 4, 2), 60, 60)).features_MC, features)


def test_kept_tokens_are_the_best_of_each_score_and_no_token_twice():
    features, keys, visual, text = image()
    visual[[5, 9]], text[[9, 30]] = 1.0, 1.0
    found = recover(features, keys, visual, text, Counts(2, 1, 0))
    assert sorted(found.visual_V.tolist()) == [5, 9]
    assert found.text_T.tolist() == [30]
    assert torch.equal(found.features_MC, features[[5, 9, 30]])
    assert found.rest_R.tolist() == [i for i in range(60) if i not in (5, 9, 30)]


def test_text_tokens_that_were_kept_already_count_once():
    features, keys, visual, text = image(n=4)
    found = recover(features, keys, visual, text, Counts(2, 4, 0))
    assert found.kept_K.tolist() == [0, 1, 2, 3]


def test_clusters_are_centres_plus_weighted_neighbours():
    features, keys = torch.eye(4), torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0, 1]])
    weight, text = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.0, 0.0, 0.0, 5.0])
    merged = merge_rest(features, keys, weight, text, torch.tensor([0]))
    assert torch.allclose(merged, torch.tensor([[1, 0.3, 0.2, 0.1], [0, 0.3, 0.2, 0.1]]))


def test_only_the_32_nearest_join_a_cluster():
    keys = torch.stack([torch.linspace(0, 1, 50).cos(), torch.linspace(0, 1, 50).sin()], dim=1)
    merged = merge_rest(torch.ones(50, 1), keys, torch.ones(50), torch.zeros(50), torch.tensor([0, 49]))
    assert merged.flatten().tolist() == [33, 33, 48]


def test_the_released_code_takes_keys_of_the_first_tokens():
    features, keys, visual, text = image()
    counts = Counts(5, 5, 3)
    ours, official = (recover(features, keys, visual, text, counts, aligned=a) for a in (True, False))
    assert torch.equal(ours.kept_K, official.kept_K)
    assert not torch.allclose(ours.features_MC, official.features_MC)


def test_counts_are_shares_of_outliers():
    _, _, visual, text = image(n=100)
    visual[[3, 50]], text[[7, 8, 9]] = 1.0, torch.tensor([5.0, 6.0, 9.0])
    counts = own_counts(visual, text)
    assert counts.visual >= 2 and counts.text >= 3
    more = own_counts(visual, text, channels=1000)
    assert more.clusters >= counts.clusters and more.clusters <= 100 - counts.visual - counts.text


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_text_similarity_is_a_scaled_cosine(scale):
    image_ND, text_D = torch.eye(4)[:2] * scale, torch.tensor([3.0, 0, 0, 0])
    assert torch.allclose(text_similarity(image_ND, text_D), torch.tensor([0.5, 0.0]))


def test_cls_attention_leaves_out_cls_itself():
    attention = cls_row(torch.zeros(4), torch.randn(5, 4))
    assert torch.allclose(attention, torch.full((4,), 0.2))
