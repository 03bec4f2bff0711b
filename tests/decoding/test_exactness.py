"""Every lossless strategy has the law of sequential sampling (specs/speculative.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from tests.decoding.cases import CASES, CHAINS, chi_square, draw
from tests.decoding.toy import ToyLaw, ToySession, sequence_law, toy_table
from visgen.decoding import STRATEGIES
from visgen.decoding.decision import Decision
from visgen.decoding.drafts.fresh import LastLaw, Uniform
from visgen.decoding.drafts.jacobi import JacobiSource
from visgen.decoding.drafts.window import WindowShape
from visgen.decoding.engine import decode
from visgen.decoding.jacobi import CoupledJacobi, SpeculativeJacobi
from visgen.decoding.recycling import TokenRecycling
from visgen.decoding.rules import accepted_run, probability, residual
from visgen.decoding.sequential import Sequential
from visgen.decoding.verifiers import BlockVerifier, ChainVerifier
from visgen.errors import InputError
from visgen.nn.noise import Noise

TABLE, LAW, GUIDANCE = toy_table(), ToyLaw(top_k=2), 1.5
RUNS, FEWER, FAR = 20_000, 4_000, 4.0
by_name = pytest.mark.parametrize("name", CASES)


def test_every_lossless_strategy_is_here():
    # The drafter's own tests stand in test_speculative.py.
    lossless = {name for name in STRATEGIES.names() if STRATEGIES.load(name).lossless} - {"speculative"}
    covered = {type(strategy) for strategy in CASES.values()}
    assert {STRATEGIES.load(name) for name in lossless} <= covered


@by_name
def test_sequences_have_the_law_of_sequential_sampling(name):
    ids, session = draw(CASES[name], TABLE, LAW, Noise.shared(1), RUNS, GUIDANCE)
    assert abs(chi_square(ids, TABLE, LAW, GUIDANCE)) < FAR
    assert session.passes <= session.length


@by_name
def test_a_law_without_zeros_and_a_forced_position(name):
    law = ToyLaw(temperature=1.3, formats={2: 1})
    ids, _ = draw(CASES[name], TABLE, law, Noise.shared(2), FEWER)
    assert abs(chi_square(ids, TABLE, law)) < FAR
    assert (ids[:, 2] == 1).all()


@pytest.mark.parametrize("name", CHAINS)
def test_positions_of_two_codes(name):
    table, law = toy_table(length=3, vocab=2, codes=2, seed=3), ToyLaw()
    ids, _ = draw(CHAINS[name], table, law, Noise.shared(3), FEWER, GUIDANCE)
    assert abs(chi_square(ids, table, law, GUIDANCE)) < FAR


@pytest.mark.parametrize("name", ["sjd-3", "jacobi-3", "tree-3", "recycling-3"])
def test_images_one_by_one(name):
    table, law = toy_table(length=3, vocab=2, seed=5), ToyLaw()
    rows = [draw(CASES[name], table, law, Noise.per_image([(7, k)]), 1)[0] for k in range(150)]
    assert abs(chi_square(torch.cat(rows), table, law)) < FAR


@by_name
def test_an_image_does_not_depend_on_its_batch(name):
    table, keys = toy_table(length=9), [(0, k) for k in range(6)]
    together, _ = draw(CASES[name], table, LAW, Noise.per_image(keys), 6, GUIDANCE)
    for row, key in zip(together, keys):
        alone, _ = draw(CASES[name], table, LAW, Noise.per_image([key]), 1, GUIDANCE)
        assert torch.equal(alone[0], row)


@by_name
def test_greedy_is_greedy_sequential(name):
    table, law = toy_table(length=12, seed=4), ToyLaw(top_k=1)
    expected, _ = draw(Sequential(), table, law, Noise.shared(0), 1)
    ids, session = draw(CASES[name], table, law, Noise.per_image([(5, k) for k in range(3)]), 3)
    assert torch.equal(ids, expected.expand(3, -1))
    assert session.passes <= session.length


@pytest.mark.parametrize("strategy", [SpeculativeJacobi(1), CoupledJacobi(1), TokenRecycling(0)])
def test_a_window_of_one_is_sequential_with_the_same_noise(strategy):
    expected, _ = draw(Sequential(), TABLE, LAW, Noise.per_image([(0, k) for k in range(50)]), 50, GUIDANCE)
    ids, session = draw(strategy, TABLE, LAW, Noise.per_image([(0, k) for k in range(50)]), 50, GUIDANCE)
    assert torch.equal(ids, expected) and session.passes == session.length


@pytest.mark.parametrize("branching", [1, 2])
def test_shared_noise_gives_the_tokens_of_sequential_sampling(branching):
    table, keys = toy_table(length=20, vocab=5), [(3, k) for k in range(40)]
    expected, _ = draw(Sequential(), table, LAW, Noise.per_image(keys), 40, GUIDANCE)
    strategy = CoupledJacobi(window=9, coupling="shared", branching=branching)
    ids, session = draw(strategy, table, LAW, Noise.per_image(keys), 40, GUIDANCE)
    assert torch.equal(ids, expected) and session.passes <= session.length


@pytest.mark.parametrize("name", ["sjd-5", "sjd-block-5", "sjd-law", "jacobi-5", "jacobi-shared-5"])
def test_drafts_of_the_target_law_are_all_accepted(name):
    context_free = toy_table(length=13)[:, :1, :1, :1].expand(2, 13, 4, 4, 1, 3)
    _, session = draw(CASES[name], context_free, ToyLaw(), Noise.shared(0), 1)
    # The first pass after the prefill already tests drafts, those of "uniform" in vain.
    assert session.passes <= 2 + -(-13 // CASES[name].window) + 9 * (CASES[name].init == "uniform")


def test_a_draft_that_cannot_be_is_never_accepted():
    certain = torch.full((2, 6, 4, 4, 1, 3), -1e9)
    for position in range(6):
        certain[:, position, ..., position % 3] = 0.0
    ids, session = draw(SpeculativeJacobi(window=3, init="left"), certain, ToyLaw(), Noise.shared(0), 50)
    assert torch.equal(ids, (torch.arange(6) % 3).expand(50, -1))
    assert session.passes <= 6


@pytest.mark.slow
@by_name
def test_marginals_of_first_token_and_pairs(name):
    runs = 200_000
    ids, _ = draw(CASES[name], TABLE, LAW, Noise.shared(11), runs, GUIDANCE)
    expected = sequence_law(TABLE, LAW, GUIDANCE)
    for places in [(0,), *((i, j) for i in range(5) for j in range(i + 1, 5))]:
        found, wanted = torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
        number = sum(ids[:, place] * 3**k for k, place in enumerate(places))
        found += torch.bincount(number, minlength=9) / runs
        for sequence, mass in expected.items():
            wanted[sum(sequence[place] * 3**k for k, place in enumerate(places))] += mass
        assert ((found - wanted).abs() <= 5 * (wanted * (1 - wanted) / runs).sqrt()).all()


# ---- what is not exact must be seen


class Relaxed(ChainVerifier):
    """Accepts half as much again as it may."""

    def decide(self, target_BNKV, draft, uniforms_BNK) -> Decision:
        return super().decide(target_BNKV, draft, uniforms_BNK / 1.5)


@dataclass
class WrongResidual(ChainVerifier):
    """The chain rule with another law after a rejection."""

    kind: str

    def decide(self, target_BNKV, draft, uniforms_BNK) -> Decision:
        decision = super().decide(target_BNKV, draft, uniforms_BNK)
        tested = accepted_run(draft.valid)
        rejected = decision.accepted < tested
        rows, index = torch.arange(len(tested)), decision.accepted.clamp(max=draft.tokens.shape[1] - 1)
        if self.kind == "temperature":
            law = decision.law.square() / decision.law.square().sum(-1, keepdim=True)
        else:  # the law of the draft before, which a slip of one index would take
            law = residual(target_BNKV[rows, index], draft.laws[rows, (index - 1).clamp(min=0)])
        law = torch.where(rejected[:, None, None], law, decision.law)
        return Decision(
            decision.path, decision.accepted, decision.tested, law, decision.entries, decision.ratios
        )


class Confident(JacobiSource):
    """Keeps an old draft where the new law likes it, and still claims that law."""

    def _redraw(self, run, positions, old, old_laws, laws, has_old):
        drawn = super()._redraw(run, positions, old, old_laws, laws, has_old)
        return torch.where(has_old[..., None] & (probability(laws, old) > 0.5), old, drawn)


def _z(source_of, verifier, window=5, seed=1):
    """χ² of a window under a verifier."""
    session = ToySession(RUNS, TABLE, GUIDANCE)
    ids, _ = decode(session, LAW, Noise.shared(seed), source_of(WindowShape.build(window)), verifier)
    return chi_square(ids.flatten(1), TABLE, LAW, GUIDANCE)


def fresh_drafts(shape):
    return JacobiSource(shape, "independent", Uniform())


def coupled_drafts(shape):
    return JacobiSource(shape, "maximal", LastLaw())


@pytest.mark.parametrize(
    "source, verifier",
    [
        (fresh_drafts, Relaxed()),
        (fresh_drafts, WrongResidual("temperature")),
        (fresh_drafts, WrongResidual("stale")),
        (coupled_drafts, BlockVerifier()),
        (lambda shape: Confident(shape, "independent", LastLaw()), ChainVerifier()),
    ],
    ids=["relaxed", "temperature on the residual", "stale law", "block with coupled tails", "chosen drafts"],
)
def test_what_is_not_exact_is_seen(source, verifier):
    assert abs(_z(source, verifier)) > FAR


@pytest.mark.parametrize("source", [fresh_drafts, coupled_drafts])
def test_the_same_parts_used_rightly_pass(source):
    assert abs(_z(source, ChainVerifier())) < FAR


def test_block_verification_of_coupled_drafts_is_refused():
    with pytest.raises(InputError, match=r"block.*independent"):
        CoupledJacobi(window=4, verifier="block")
