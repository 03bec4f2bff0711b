"""Random draws, laws over ids, guidance."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visgen.errors import InputError, UnknownNameError
from visgen.nn.guidance import guidance_at, guide
from visgen.nn.noise import Noise, image_seed
from visgen.nn.sampling import TokenSampling, filter_logits, token_law


def test_an_image_draws_the_same_in_any_batch():
    seeds = [(0, 0), (0, 1), (7, 0)]
    together = Noise.per_image(seeds).exponential(3, 5)
    for row, seed in enumerate(seeds):
        assert torch.equal(Noise.per_image([seed]).exponential(1, 5)[0], together[row])


def test_seed_and_ordinal_both_count():
    assert len({image_seed(s, k) for s in range(20) for k in range(20)}) == 400


def test_categorical_equals_multinomial_with_the_same_generator():
    law = torch.rand(4, 6, 9, generator=torch.Generator().manual_seed(1))
    ours = Noise.shared(3).categorical(law)
    theirs = torch.multinomial(
        law.view(-1, 9), 1, replacement=True, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(ours.flatten(), theirs.flatten())


def test_categorical_follows_the_law():
    law = torch.tensor([0.1, 0.2, 0.7]).expand(1, 20000, 3)
    counts = torch.bincount(Noise.per_image([(0, 0)]).categorical(law).flatten(), minlength=3) / 20000
    assert torch.allclose(counts, torch.tensor([0.1, 0.2, 0.7]), atol=0.02)


def test_replayed_noise_hands_out_and_checks():
    noise = Noise.replayed([torch.ones(2, 3)])
    assert torch.equal(noise.normal(2, 3), torch.ones(2, 3))
    with pytest.raises(InputError, match="no draw"):
        noise.normal(2, 3)


def test_rows_must_match_the_generators():
    with pytest.raises(InputError, match="2 images, but 3 rows"):
        Noise.per_image([(0, 0), (0, 1)]).uniform(3, 1)


@given(seed=st.integers(0, 99), top_k=st.integers(1, 12), top_p=st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_top_p_after_top_k_equals_the_full_sort(seed, top_k, top_p):
    """Sorting only the survivors of top-k gives what a full sort gives, ties included."""
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(seed)).mul(2).round()
    kept = filter_logits(logits, top_k, None)
    ascending, order = kept.sort(dim=-1, stable=True)
    removed = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    removed[..., -1] = False
    expected = kept.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), -torch.inf)
    found = filter_logits(logits, top_k, top_p)
    if top_p < 1:
        assert torch.equal(found, expected)
    assert torch.isfinite(found).any(-1).all()


def test_filters_leave_their_input_alone():
    logits = torch.randn(2, 8)
    before = logits.clone()
    filter_logits(logits, 3, 0.5)
    token_law(logits, TokenSampling(temperature=0.5, top_k=2))
    assert torch.equal(logits, before)


def test_ties_with_the_kth_stay():
    assert torch.isfinite(filter_logits(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), 2)).sum() == 3


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"guidance_scale": float("nan")}],
)
def test_bad_sampling_options_are_named(options):
    with pytest.raises(InputError, match=next(iter(options))):
        TokenSampling(**options)


def test_unknown_schedule_lists_the_nearest():
    with pytest.raises(UnknownNameError, match="linear"):
        TokenSampling(guidance_schedule="linaer")


def test_guidance_means_u_plus_s_c_minus_u():
    c, u = torch.tensor([2.0]), torch.tensor([1.0])
    assert guide(c, u, 1.0) == c
    assert guide(c, u, 3.0) == 4.0
    assert guidance_at(4.0, "linear", 0.0) == 1.0
    assert guidance_at(4.0, "linear", 1.0) == 4.0
