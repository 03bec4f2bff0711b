"""Exactness of acceptance rules in closed form, their degenerate cases, and rules that must be found
wrong."""

import itertools

import pytest
import torch

from tests.decoding.enumeration import World, all_drafts, emission_error, mean_accepted, outcomes
from visgen.decoding.base import Draft
from visgen.decoding.rules import (
    best_acceptance,
    block_thresholds,
    block_weights,
    inverse_cdf,
    kseq_beta,
    kseq_residual,
    kseq_rho,
    maximal_coupling,
    overlap,
    race,
    residual,
    without,
)
from visgen.decoding.verifiers import (
    BlockVerifier,
    ChainVerifier,
    KSeqVerifier,
    RecursiveRule,
    RecursiveVerifier,
)
from visgen.decoding.walk import walk
from visgen.errors import InputError
from visgen.nn.noise import Noise

EXACT = 1e-9
CHAIN = [0, 1, 2]
FLAT = [0, 0, 0]
TREE = [0, 0, 1, 1, 2]  # two children of the root, two and one below them
SHARP = pytest.mark.parametrize("sharpness", [0.5, 2.0, 8.0])


def laws(*shape, seed=0, sharpness=2.0):
    g = torch.Generator().manual_seed(seed)
    return torch.softmax(sharpness * torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1)


@SHARP
@pytest.mark.parametrize(
    ("verifier", "parents", "how"),
    [
        (ChainVerifier(), CHAIN, "with"),
        (ChainVerifier(), CHAIN, "deterministic"),
        (BlockVerifier(), CHAIN, "with"),
        (BlockVerifier(), CHAIN, "deterministic"),
        (RecursiveVerifier(), CHAIN, "with"),
        (RecursiveVerifier(replacement=True), FLAT, "with"),
        (RecursiveVerifier(), FLAT, "without"),
        (RecursiveVerifier(), FLAT, "deterministic"),
        (KSeqVerifier(), FLAT, "with"),
        (RecursiveVerifier(replacement=True), TREE, "with"),
        (RecursiveVerifier(), TREE, "without"),
        (RecursiveVerifier(), TREE, "deterministic"),
        (KSeqVerifier(), TREE, "with"),
    ],
)
def test_what_is_emitted_has_the_law_of_the_target(verifier, parents, how, sharpness):
    depth = 3 if parents is CHAIN else 1 if parents is FLAT else 2
    world = World.random(4 if parents is FLAT else 3, depth, seed=len(how), sharpness=sharpness)
    assert emission_error(verifier, world, parents, how) < EXACT


def fused(size, positions, codes, seed):
    """All drafts of `positions` × `codes` sub-codes with laws that do not depend on one another."""
    p, q = laws(positions + 1, codes, size, seed=seed), laws(positions, codes, size, seed=seed + 1)
    tokens = torch.tensor(list(itertools.product(range(size), repeat=positions * codes)))
    tokens = tokens.view(-1, positions, codes)
    rows = len(tokens)
    draft = Draft.chain(tokens, q.expand(rows, *q.shape))
    chance = draft.laws.gather(-1, tokens[..., None]).flatten(1).prod(dim=1)
    return p, draft, chance, p.expand(rows, *p.shape)


@pytest.mark.parametrize("verifier", [ChainVerifier(), BlockVerifier(), RecursiveVerifier()])
@pytest.mark.parametrize("one_hot", [False, True])
def test_sub_codes_have_the_law_of_the_target(verifier, one_hot):
    size, positions, codes = 3, 2, 2
    p, draft, chance, target = fused(size, positions, codes, seed=5)
    if one_hot:
        draft, target = Draft.chain(draft.tokens[7:8], None), target[7:8]
        chance = torch.ones(1, dtype=torch.float64)
    decision, draft, weight = outcomes(verifier, draft, target, chance)
    ids = torch.nn.functional.one_hot(draft.tokens, size).double()
    known = torch.where(
        torch.arange(positions)[:, None, None] < decision.accepted[:, None, None, None],
        ids,
        p[:positions],  # after the extra position: fresh from the target
    )
    known = torch.cat([known, p[-1:].expand(len(known), 1, codes, size)], dim=1)
    known[torch.arange(len(known)), decision.accepted] = decision.law
    flat = known.flatten(1, 2)  # (rows, 6, V): the law of each sub-code, given the outcome
    joint, expected = weight, torch.ones(1, dtype=torch.float64)
    for i, row in enumerate(p.flatten(0, 1)):
        joint = (joint.view(len(weight), -1, 1) * flat[:, i, None]).flatten(1)
        expected = (expected[:, None] * row).flatten()
    assert (joint.sum(dim=0) - expected).abs().max() < EXACT


def test_block_keeps_more_than_the_chain():
    gains = []
    for seed in range(5):
        world = World.random(3, 3, seed)
        gains.append(
            mean_accepted(BlockVerifier(), world, CHAIN, "with")
            - mean_accepted(ChainVerifier(), world, CHAIN, "with")
        )
    assert min(gains) >= -1e-12
    assert max(gains) > 0.05


def test_without_replacement_is_certain_when_the_drafts_cover_the_support():
    world = World.random(4, 1, seed=3)
    with_, without_ = (
        mean_accepted(RecursiveVerifier(replacement=r), world, [0] * 4, how)
        for r, how in ((True, "with"), (False, "without"))
    )
    assert without_ == pytest.approx(1, abs=1e-12)
    assert with_ < 0.99


class WrongResidual(RecursiveRule):
    """Redraws from the target itself."""

    def reject(self, laws, tokens_BK):
        return laws


class StaleDraftLaw(RecursiveRule):
    """Takes the residual against another law than the one that drafted."""

    def reject(self, laws, tokens_BK):
        p, q = laws
        return residual(p, q.roll(1, dims=-1)), q


class Sharpened(RecursiveRule):
    """Applies a temperature to the residual once more."""

    def reject(self, laws, tokens_BK):
        left, *others = super().reject(laws, tokens_BK)
        return left.square() / left.square().sum(dim=-1, keepdim=True), *others


class Walking:
    def __init__(self, rule):
        self.rule = rule

    def decide(self, target, draft, uniforms):
        return walk(target, draft, uniforms, self.rule)


@pytest.mark.parametrize("rule", [WrongResidual(), StaleDraftLaw(), Sharpened()])
@pytest.mark.parametrize("parents", [CHAIN, FLAT])
def test_wrong_rules_are_found_wrong(rule, parents):
    world = World.random(3, 3 if parents is CHAIN else 1, seed=2)
    assert emission_error(Walking(rule), world, parents, "with") > 1e-3


def test_the_wrong_sampling_of_siblings_is_found_wrong():
    world = World.random(3, 1, seed=2)
    assert emission_error(RecursiveVerifier(), world, FLAT, "with") > 1e-3
    assert emission_error(RecursiveVerifier(replacement=True), world, [0, 0], "without") > 1e-3


def chain_case(rows=64, n=4, k=1, size=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    target, q = laws(rows, n + 1, k, size, seed=seed).float(), laws(rows, n, k, size, seed=seed + 1).float()
    tokens = torch.multinomial(q.flatten(0, 2), 1, generator=g).view(rows, n, k)
    valid = torch.rand(rows, n, generator=g) < 0.9
    return target, Draft.chain(tokens, q, valid)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("deterministic", [False, True])
def test_on_a_chain_the_walk_is_the_chain_rule(k, deterministic):
    target, draft = chain_case(k=k)
    if deterministic:
        draft = Draft.chain(draft.tokens, None, draft.valid)
    uniforms = torch.rand(64, 4, k, generator=torch.Generator().manual_seed(4)) ** 6
    ours, walked = (v.decide(target, draft, uniforms) for v in (ChainVerifier(), RecursiveVerifier()))
    assert torch.equal(ours.accepted, walked.accepted)
    assert ours.accepted.max() > ours.accepted.min()
    torch.testing.assert_close(ours.law, walked.law)
    rounds = walked.tested.shape[1]
    assert torch.equal(ours.tested[:, :rounds], walked.tested)
    for row, accepted in enumerate(ours.accepted.tolist()):
        assert torch.equal(ours.path[row, :accepted], walked.path[row, :accepted])


@pytest.mark.parametrize("verifier", [ChainVerifier(), BlockVerifier(), RecursiveVerifier(), KSeqVerifier()])
@pytest.mark.parametrize("k", [1, 2])
def test_equal_laws_accept_everything(verifier, k):
    target, draft = chain_case(k=k)
    draft = Draft.chain(draft.tokens, target[:, :-1])
    verdict = verifier(target, draft, Noise.shared(0))
    assert verdict.accepted.tolist() == [4] * 64
    assert verdict.path[:, :4].tolist() == [[1, 2, 3, 4]] * 64


@pytest.mark.parametrize("verifier", [ChainVerifier(), BlockVerifier(), RecursiveVerifier(), KSeqVerifier()])
def test_disjoint_supports_accept_nothing(verifier):
    target, draft = chain_case()
    target[..., :4], target[..., 4:] = 0, target[..., 4:] + 0.1
    target = target / target.sum(dim=-1, keepdim=True)
    q = torch.zeros_like(draft.laws)
    q[..., :4] = 0.25
    draft = Draft.chain(draft.tokens % 4, q)
    decision = verifier.decide(target, draft, torch.zeros(64, 4, 1))
    assert not decision.accepted.any()
    torch.testing.assert_close(decision.law, target[:, 0])


@pytest.mark.parametrize("verifier", [ChainVerifier(), BlockVerifier(), RecursiveVerifier()])
@pytest.mark.parametrize("with_law", [True, False])
def test_a_certain_target_makes_a_certain_output(verifier, with_law):
    target, draft = chain_case()
    certain = torch.nn.functional.one_hot(target.argmax(dim=-1), 9).float()
    draft = draft if with_law else Draft.chain(draft.tokens, None)
    verdict = verifier(certain, draft, Noise.shared(0))
    best = certain.argmax(dim=-1)
    for row, accepted in enumerate(verdict.accepted.tolist()):
        assert torch.equal(draft.tokens[row, :accepted], best[row, :accepted])
        assert torch.equal(verdict.extra[row], best[row, accepted])


@pytest.mark.parametrize("verifier", [ChainVerifier(), BlockVerifier(), RecursiveVerifier()])
def test_no_drafts_is_one_draw_from_the_target(verifier):
    target, _ = chain_case(n=0)
    draft = Draft.chain(torch.zeros(64, 0, 1, dtype=torch.long), torch.zeros(64, 0, 1, 9))
    verdict = verifier(target, draft, Noise.shared(6))
    assert torch.equal(verdict.extra, Noise.shared(6).categorical(target[:, 0]))
    assert not verdict.accepted.any()


def test_no_valid_draft_is_no_draft():
    target, draft = chain_case()
    none = Draft.chain(draft.tokens, draft.laws, torch.zeros_like(draft.valid))
    for verifier in (ChainVerifier(), BlockVerifier(), RecursiveVerifier()):
        decision = verifier.decide(target, none, torch.zeros(64, 4, 1))
        assert not decision.accepted.any()
        assert not decision.tested.any()
        assert torch.equal(decision.law, target[:, 0])


def tree_case(rows=32, size=7, seed=1):
    """Every row with a tree of its own."""
    g = torch.Generator().manual_seed(seed)
    n = 9
    parents = torch.stack([(torch.rand(rows, generator=g) * (i + 1)).long() for i in range(n)], dim=1)
    target, q = (
        laws(rows, n + 1, 1, size, seed=seed).float(),
        laws(rows, n + 1, 1, size, seed=seed + 1).float(),
    )
    by_parent = q[torch.arange(rows)[:, None], parents]
    tokens = torch.multinomial(by_parent.flatten(0, 2), 1, generator=g).view(rows, n, 1)
    return target, Draft(tokens, parents, by_parent, torch.rand(rows, n, generator=g) < 0.9)


@pytest.mark.parametrize(
    "verifier", [RecursiveVerifier(), RecursiveVerifier(replacement=True), KSeqVerifier()]
)
def test_rows_do_not_depend_on_one_another(verifier):
    target, draft = tree_case()
    seeds = [(3, row) for row in range(len(target))]
    together = verifier(target, draft, Noise.per_image(seeds))
    assert together.accepted.max() > 0
    for row in range(0, len(target), 5):
        one = slice(row, row + 1)
        part = Draft(draft.tokens[one], draft.parents[one], draft.laws[one], draft.valid[one])
        alone = verifier(target[one], part, Noise.per_image(seeds[one]))
        accepted = int(alone.accepted)
        assert accepted == int(together.accepted[row])
        assert torch.equal(alone.extra[0], together.extra[row])
        assert torch.equal(alone.path[0, :accepted], together.path[row, :accepted])


def test_an_accepted_path_is_a_path():
    target, draft = tree_case()
    verdict = RecursiveVerifier()(target, draft, Noise.shared(2))
    for row, accepted in enumerate(verdict.accepted.tolist()):
        node = 0
        for entry in verdict.path[row, :accepted].tolist():
            assert draft.parents[row, entry - 1] == node
            assert draft.valid[row, entry - 1]
            node = entry


def test_siblings_with_sub_codes_are_refused():
    target = laws(2, 3, 2, 5).float()
    draft = Draft(
        torch.zeros(2, 2, 2, dtype=torch.long),
        torch.zeros(2, 2, dtype=torch.long),
        None,
        torch.ones(2, 2).bool(),
    )
    with pytest.raises(InputError, match="2 sub-codes"):
        RecursiveVerifier()(target, draft, Noise.shared(0))


def test_trees_are_refused_by_chains_and_drafts_without_laws_by_kseq():
    target, draft = tree_case()
    with pytest.raises(InputError, match="RecursiveVerifier"):
        ChainVerifier()(target, draft, Noise.shared(0))
    bare = Draft(draft.tokens, draft.parents, None, draft.valid)
    with pytest.raises(InputError, match="K-SEQ"):
        KSeqVerifier()(target, bare, Noise.shared(0))


@pytest.mark.parametrize("drafts", [1, 2, 3, 6])
def test_rho_solves_its_equation_and_leaves_a_law(drafts):
    p, q = laws(50, 6, seed=1), laws(50, 6, seed=2)
    k = torch.full((50,), drafts)
    rho = kseq_rho(p, q, k)
    beta = kseq_beta(p, q, rho)
    torch.testing.assert_close(1 - (1 - beta) ** drafts, rho * beta)
    assert ((rho >= 1) & (rho <= drafts)).all()
    left = p - torch.minimum(q, p / rho[:, None]) * ((1 - (1 - beta) ** drafts) / beta)[:, None]
    assert left.min() > -1e-12
    torch.testing.assert_close(kseq_residual(p, q, rho, k).sum(dim=-1), torch.ones(50).double())


@pytest.mark.parametrize("drafts", [1, 2, 4])
def test_the_best_acceptance_is_the_smallest_cut(drafts):
    p, q = laws(20, 5, seed=1), laws(20, 5, seed=2)
    p[:5, 0], q[5:10, 1] = 0, 0
    sets = torch.tensor(list(itertools.product((0.0, 1.0), repeat=5)), dtype=torch.float64)
    cuts = p @ sets.T + 1 - (q @ sets.T) ** drafts
    best = best_acceptance(p, q, drafts)
    torch.testing.assert_close(best, cuts.amin(dim=1))
    k = torch.full((20,), drafts)
    assert (1 - (1 - kseq_beta(p, q, kseq_rho(p, q, k))) ** drafts <= best + 1e-9).all()
    if drafts == 1:
        torch.testing.assert_close(best[10:], overlap(p, q)[10:])


def test_residuals_without_mass_are_the_law_itself():
    p = laws(4, 6)
    assert torch.equal(residual(p, p), p)
    certain = torch.eye(6, dtype=torch.float64)
    assert torch.equal(without(certain, torch.arange(6)), certain)


def test_block_thresholds_end_with_the_weight_of_the_last_draft():
    p, q = laws(3, 5, 6, seed=1), laws(3, 4, 6, seed=2)
    weights = block_weights(p, q, torch.zeros(3, 4).long())
    found = block_thresholds(p, q, weights, torch.tensor([4, 2, 0]))
    assert found[0, 3] == weights[0, 4]
    assert found[1, 1] == weights[1, 2]
    assert not found[1, 2:].any() and not found[2].any()


def test_the_maximal_coupling_has_the_new_law_and_agrees_as_often_as_may_be():
    old, new = laws(3, 5, seed=1), laws(3, 5, seed=2)
    tokens = torch.arange(5).expand(3, 5)
    q_old, q_new = (law[:, None].expand(3, 5, 5) for law in (old, new))
    stays = torch.minimum(
        torch.ones(()), q_new.gather(-1, tokens[..., None]) / q_old.gather(-1, tokens[..., None])
    )
    kept, law = maximal_coupling(tokens, q_old, q_new, stays.squeeze(-1) - 1e-9)
    assert kept.all()
    kept, law = maximal_coupling(tokens, q_old, q_new, stays.squeeze(-1) + 1e-9)
    assert not kept.any()
    found = (old[..., None] * (stays * torch.eye(5) + (1 - stays) * law)).sum(dim=1)
    torch.testing.assert_close(found, new)
    torch.testing.assert_close((old * stays.squeeze(-1)).sum(dim=1), overlap(old, new))


@pytest.mark.parametrize("kind", ["maximal", "shared"])
def test_a_coupled_draft_has_the_new_law(kind):
    rows, size = 20_000, 4
    old, new = (laws(2, 1, size, seed=s).expand(rows, 2, 1, size) for s in (1, 2))
    noise = Noise.shared(0)
    exponential = noise.exponential(rows, 2, 1, size)
    drafts = race(old, exponential)
    if kind == "shared":
        found = race(new, exponential)
    else:
        keep, rest = maximal_coupling(drafts, old, new, noise.uniform(rows, 2, 1))
        found = torch.where(keep, drafts, inverse_cdf(rest, noise.uniform(rows, 2, 1)))
    share = torch.nn.functional.one_hot(found, size).double().mean(dim=0)
    spread = (new[0] * (1 - new[0]) / rows).sqrt()
    assert ((share - new[0]).abs() < 5 * spread).all()
    agreement, tv = (found == drafts).double().mean(dim=0), 1 - overlap(old, new)
    bound = overlap(old, new) if kind == "maximal" else (1 - tv) / (1 + tv)
    assert (agreement >= bound[0] - 0.02).all()


def test_inverse_cdf_takes_the_first_id_above():
    law = torch.tensor([0.0, 0.25, 0.0, 0.75])
    u = torch.tensor([0.0, 0.2, 0.25, 0.99999994])
    assert inverse_cdf(law.expand(4, 4), u).tolist() == [1, 1, 3, 3]


def test_every_call_draws_the_same_number():
    target, draft = tree_case()
    noise = Noise.shared(9)
    RecursiveVerifier()(target, draft, noise)
    after = noise.uniform(1)
    other = Noise.shared(9)
    other.uniform(32, 9, 1)
    other.exponential(32, 1, 7)
    assert torch.equal(after, other.uniform(1))


def test_enumerated_drafts_are_a_law():
    for how in ("with", "without", "deterministic"):
        _, chance, _ = all_drafts(World.random(3, 2, 0), TREE, how)
        assert float(chance.sum()) == pytest.approx(1)
