"""Speculative decoding with a drafter: the law of sequential sampling, whatever the drafter is worth."""

from __future__ import annotations

import pytest
import torch

from tests.decoding.toy import ToyLaw, sequence_law, toy_table
from tests.decoding.toy_drafter import ToyDrafter, ToyTarget
from visgen.decoding import engine
from visgen.decoding.base import Draft, Resources
from visgen.decoding.drafts.eagle import DynamicTreeSource, conditional, without_replacement
from visgen.decoding.drafts.static_tree import StaticTree
from visgen.decoding.making import make_strategy
from visgen.decoding.sequential import Sequential
from visgen.decoding.speculative import Speculative
from visgen.decoding.verifiers import RecursiveVerifier
from visgen.errors import InputError
from visgen.nn.noise import Noise

GUIDANCE, LAW = 1.7, ToyLaw(top_k=2, temperature=1.2)
TABLE = toy_table()
SHAPES = {
    "dynamic": Speculative(tree="dynamic", tokens=5, depth=3, top_k=2),
    "dynamic-1": Speculative(tree="dynamic", tokens=1, depth=1, top_k=3),
    "dynamic-wide": Speculative(tree="dynamic", tokens=8, depth=4, top_k=3),
    "static": Speculative(tree="static", shape="mc_sim_7b_63_balanced"),
    "chain": Speculative(tree="chain", tokens=3),
    "chain-1": Speculative(tree="chain", tokens=1),
}
QUALITIES = {"perfect": 1.0, "bad": -1.0, "too-sure": 4.0}


def decode(strategy, quality, rows, *, seed=0, table=TABLE, law=LAW, noise=None):
    drafter = ToyDrafter(quality)
    session = ToyTarget(rows, table, GUIDANCE)
    ids, stats = strategy(session, law, noise or Noise.shared(seed), Resources(drafter=drafter))
    assert session.fed <= strategy.entries
    assert stats.draft_passes == drafter.sessions[0].passes
    return ids, stats


def z_score(ids, law):
    """(χ² − df) / sqrt(2 df) against the enumerated law; sequences outside its support must not occur.

    Those that are expected less than 5 times are counted together: χ² has its law for frequent ones alone.
    """
    vocab = 1 + max(max(name) for name in law)
    weights = vocab ** torch.arange(ids.flatten(1).shape[1])
    counts = torch.bincount((ids.flatten(1) * weights).sum(1), minlength=int(vocab ** len(weights)))
    index = torch.tensor([sum(int(w) * x for w, x in zip(weights, name, strict=True)) for name in law])
    expected = len(ids) * torch.tensor(list(law.values()), dtype=torch.float64)
    found = counts[index].double()
    assert int(found.sum()) == len(ids)
    assert not found[expected == 0].any()
    rare = expected < 5
    found = torch.cat([found[~rare], found[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    found, expected = found[expected > 0], expected[expected > 0]
    df = len(expected) - 1
    return float((((found - expected) ** 2 / expected).sum() - df) / (2 * df) ** 0.5)


@pytest.fixture(scope="module")
def true_law():
    return sequence_law(TABLE, LAW, GUIDANCE)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sequences_have_the_law_of_sequential_sampling(shape, quality, true_law):
    ids, stats = decode(SHAPES[shape], QUALITIES[quality], 20_000, seed=1)
    assert stats.lossless
    assert abs(z_score(ids, true_law)) < 4


def test_the_test_sees_a_wrong_law(true_law):
    """Deterministic drafts passed off as drawn ones must fail."""

    class Pretending(DynamicTreeSource):
        def propose(self, run):
            draft = super().propose(run)
            laws = torch.full((*draft.tokens.shape, 3), 1 / 3)
            return Draft(draft.tokens, draft.parents, laws, draft.valid)

    session = ToyTarget(20_000, TABLE, GUIDANCE)
    source = Pretending(ToyDrafter(1.0).session(session, 5), 3, 2, 5)
    ids, _ = engine.decode(session, LAW, Noise.shared(1), source, RecursiveVerifier())
    assert z_score(ids, true_law) > 20


def test_a_perfect_drafter_is_always_believed():
    ids, stats = decode(Speculative(tree="chain", tokens=4), 1.0, 64)
    assert stats.accepted == stats.tested
    assert set(stats.passes) == {2}  # the prefill, and one that accepts what is left of five tokens
    assert ids.shape == (64, 5, 1)


def test_greedy_equals_sequential():
    law = ToyLaw(top_k=1)
    expected, _ = Sequential()(ToyTarget(3, TABLE, GUIDANCE), law, Noise.shared(0))
    for strategy in SHAPES.values():
        ids, _ = decode(strategy, -1.0, 3, law=law)
        assert torch.equal(ids, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_does_not_depend_on_its_batch(shape):
    seeds = [(7, k) for k in range(5)]
    together, _ = decode(SHAPES[shape], 0.5, 5, noise=Noise.per_image(seeds))
    alone = [decode(SHAPES[shape], 0.5, 1, noise=Noise.per_image([seed]))[0] for seed in seeds]
    assert torch.equal(together, torch.cat(alone))


def test_forced_positions_are_kept():
    ids, _ = decode(SHAPES["dynamic"], -1.0, 50, law=ToyLaw(formats={2: 1, 4: 0}))
    assert bool((ids[:, 2] == 1).all()) and bool((ids[:, 4] == 0).all())


def test_sub_codes_are_drafted_in_a_chain():
    table = toy_table(length=4, vocab=2, codes=2)
    law = sequence_law(table, ToyLaw(), GUIDANCE)
    for quality in (1.0, -1.0):
        ids, _ = decode(Speculative(tree="chain", tokens=2), quality, 20_000, table=table, law=ToyLaw())
        assert abs(z_score(ids, law)) < 4
    with pytest.raises(InputError, match="tree='chain'"):
        decode(Speculative(tree="dynamic"), 1.0, 2, table=table)


def test_draws_without_replacement_have_their_law():
    law = torch.tensor([0.5, 0.3, 0.15, 0.05])
    ids = without_replacement(law.expand(200_000, 4), Noise.shared(0).exponential(200_000, 4), 2)
    pairs = torch.bincount(ids[:, 0] * 4 + ids[:, 1], minlength=16).view(4, 4) / 200_000
    expected = law[:, None] * law[None] / (1 - law[:, None])
    expected.fill_diagonal_(0)
    assert (pairs - expected).abs().max() < 5 * (0.25 / 200_000) ** 0.5
    assert torch.allclose(conditional(law, torch.tensor([1, 0, 3])), torch.tensor([0.3, 0.5 / 0.7, 0.25]))


def test_a_tree_of_certain_tokens_holds_every_parent():
    """Child and parent have one score when the child is certain; the parent must not be left out."""
    ids, stats = decode(Speculative(tree="dynamic", tokens=3, depth=3, top_k=2), 1.0, 4, law=ToyLaw(top_k=1))
    assert set(stats.passes) == {2} or set(stats.passes) == {3}
    assert sum(stats.accepted) == sum(stats.tested)
    assert ids.shape == (4, 5, 1)


def test_static_trees_need_elder_siblings():
    tree = StaticTree.from_paths([(0,), (1,), (0, 0), (1, 0), (1, 1)])
    assert tree.parents == [0, 0, 1, 2, 2] and tree.width == 2
    for paths in ([(0, 0)], [(0,), (2,)], [()], []):
        with pytest.raises(InputError, match="tree"):
            StaticTree.from_paths(paths)


def test_bad_options_are_refused():
    assert make_strategy("speculative:7").entries == 8
    assert make_strategy("speculative", {"tree": "dynamic"}).entries == 59
    for options in ({"tree": "bush"}, {"tokens": 0}, {"depth": 0}, {"top_k": 0}):
        with pytest.raises(InputError):
            make_strategy("speculative", options)
    with pytest.raises(InputError, match="draws 5 different ids"):
        decode(Speculative(tree="static"), 1.0, 1)
    with pytest.raises(InputError, match="needs a drafter"):
        Speculative()(ToyTarget(1, TABLE), LAW, Noise.shared(0))
