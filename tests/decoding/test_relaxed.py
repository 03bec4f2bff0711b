"""LANTERN's relaxed acceptance: what is counted, what is lost, and that it is exact when switched off."""

import pytest
import torch

from tests.decoding.enumeration import World, emission_error, mean_accepted
from visgen.decoding.base import Draft
from visgen.decoding.greedy import GreedyVerifier
from visgen.decoding.relaxed import ImageIds, Neighbourhood, RelaxedVerifier, neighbour_table
from visgen.decoding.trees import NAMED_TREES, leaf_paths, parents_of, static_paths, subtree, tree_structure
from visgen.decoding.verifiers import RecursiveVerifier
from visgen.errors import InputError, UnknownNameError
from visgen.nn.noise import Noise

TREE = [0, 0, 1, 1, 2]
V = 24


def codebook(size=V, seed=0):
    return torch.randn(size, 5, generator=torch.Generator().manual_seed(seed))


def laws(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(*shape, generator=g), dim=-1)


def test_the_table_holds_the_nearest_others():
    codes = codebook(700)  # more than one chunk
    table = neighbour_table(codes, 6)
    assert table.shape == (700, 7)
    assert table.dtype == torch.int32
    distance = (codes[:, None] - codes).norm(dim=-1)
    distance.fill_diagonal_(torch.inf)
    assert torch.equal(table.long(), distance.argsort(dim=1)[:, :7])
    assert neighbour_table(codes[:5], 100).shape == (5, 4)


@pytest.mark.parametrize("delta", [0.0, 0.05, 0.3, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("k", [1, 5, V - 1])
def test_a_draft_counts_a_prefix_of_its_neighbours(k, delta):
    table = neighbour_table(codebook(), k)
    p = laws(V, V)
    p[:, ::3] = 0
    p = (p / p.sum(dim=-1, keepdim=True) * 1024).round() / 1024  # sums without rounding
    counted, absorbed = Neighbourhood(table, k, delta).aggregate(p, torch.arange(V))
    for token in range(V):
        bound = delta if delta <= 1 else (delta - 1) * float(p[token, token])
        mass, number = 0.0, 0
        for neighbour in table[token, :k].tolist():
            if mass + float(p[token, neighbour]) > bound:
                break
            mass, number = mass + float(p[token, neighbour]), number + 1
        assert int(absorbed[token]) == number
        assert float(counted[token]) == pytest.approx(float(p[token, token]) + mass, abs=1e-6)


def tree_case(rows=40, n=8, seed=1, drawn=True):
    g = torch.Generator().manual_seed(seed)
    parents = torch.stack([(torch.rand(rows, generator=g) * (i + 1)).long() for i in range(n)], dim=1)
    target, q = laws(rows, n + 1, 1, V, seed=seed), laws(rows, n + 1, 1, V, seed=seed + 1)
    by_parent = q[torch.arange(rows)[:, None], parents]
    tokens = torch.multinomial(by_parent.flatten(0, 2), 1, generator=g).view(rows, n, 1)
    same = (parents[:, :, None] == parents[:, None]) & (tokens == tokens.transpose(1, 2))
    valid = (torch.rand(rows, n, generator=g) < 0.9) & ~same.tril(-1).any(dim=2)  # siblings differ
    return target, Draft(tokens, parents, by_parent if drawn else None, valid)


@pytest.mark.parametrize("drawn", [True, False])
def test_without_neighbours_it_is_the_exact_walk(drawn):
    target, draft = tree_case(drawn=drawn)
    uniforms = torch.rand(40, 8, 1, generator=torch.Generator().manual_seed(0)) ** 3
    relaxed = RelaxedVerifier(neighbour_table(codebook(), 3), k=0)
    ours, exact = (v.decide(target, draft, uniforms) for v in (relaxed, RecursiveVerifier()))
    assert relaxed.lossless
    assert torch.equal(ours.accepted, exact.accepted)
    torch.testing.assert_close(ours.law, exact.law)


@pytest.mark.parametrize("how", ["without", "deterministic"])
@pytest.mark.parametrize(("parents", "depth"), [([0, 0, 0], 1), (TREE, 2)])
def test_relaxation_is_found_inexact_and_none_is_exact(parents, depth, how):
    world = World.random(4 if depth == 1 else 3, depth, seed=1)
    table = neighbour_table(codebook(world.size), 2)
    relaxed = RelaxedVerifier(table, k=2, delta=0.4)
    assert not relaxed.lossless
    assert emission_error(relaxed, world, parents, how) > 1e-3
    assert emission_error(RelaxedVerifier(table, k=0), world, parents, how) < 1e-9


def test_relaxation_accepts_more():
    world = World.random(3, 2, seed=1, sharpness=3.0)
    table = neighbour_table(codebook(3), 1)
    more, less = (
        mean_accepted(verifier, world, [0, 1], "with")
        for verifier in (RelaxedVerifier(table, k=1, delta=0.5), RecursiveVerifier())
    )
    assert more > less + 0.02


@pytest.mark.parametrize("drawn", [True, False])
def test_rows_do_not_depend_on_one_another(drawn):
    target, draft = tree_case(drawn=drawn)
    verifier = RelaxedVerifier(neighbour_table(codebook(), 6), k=6, delta=0.2)
    seeds = [(1, row) for row in range(40)]
    together = verifier(target, draft, Noise.per_image(seeds))
    for row in range(0, 40, 7):
        one = slice(row, row + 1)
        part = Draft(
            *(t if t is None else t[one] for t in (draft.tokens, draft.parents, draft.laws, draft.valid))
        )
        alone = verifier(target[one], part, Noise.per_image(seeds[one]))
        assert torch.equal(alone.accepted[0], together.accepted[row])
        assert torch.equal(alone.extra[0], together.extra[row])


def one_draft(law, token):
    target = law.expand(1, 2, 1, -1)
    return target, Draft.chain(torch.tensor([[[token]]]), None)


def test_a_rejection_takes_one_neighbour_more_than_k():
    table = neighbour_table(codebook(), 2)
    target, draft = one_draft(torch.full((V,), 1 / V), 4)
    verifier = RelaxedVerifier(table, k=2, delta=0.5)
    decision = verifier.decide(target, draft, torch.ones(1, 1, 1))
    gone = (decision.law[0, 0] == 0).nonzero().flatten()
    assert gone.tolist() == sorted([4, *table[4, :3].tolist()])


def test_what_is_left_of_nothing():
    """Published: any id. Ours: what the exact rule leaves."""
    table = neighbour_table(codebook(), V - 1)
    law = torch.zeros(V)
    law[[4, int(table[4, 0])]] = torch.tensor([0.5, 0.5])
    target, draft = one_draft(law, 4)
    laws_left = [
        RelaxedVerifier(table, k=3, delta=2.0, official=official)
        .decide(target, draft, torch.full((1, 1, 1), 2.0))
        .law[0, 0]
        for official in (False, True)
    ]
    assert laws_left[0][table[4, 0]] == 1
    torch.testing.assert_close(laws_left[1], torch.full((V,), 1 / V))


def test_the_published_comparison_accepts_equality():
    law = torch.zeros(V)
    law[0] = 1
    target, draft = one_draft(law, 5)
    accepted = [
        int(
            RelaxedVerifier(neighbour_table(codebook(), 0), k=0, official=o)
            .decide(target, draft, torch.zeros(1, 1, 1))
            .accepted
        )
        for o in (False, True)
    ]
    assert accepted == [0, 1]


def test_format_tokens_are_accepted_and_other_ids_are_not():
    size = V + 8
    target = torch.full((4, 2, 1, size), 1 / size)
    draft = Draft.chain(torch.tensor([30, 31, 2, 8])[:, None, None], None)
    verifier = RelaxedVerifier(
        neighbour_table(codebook(), 2), k=2, delta=0.0, ids=ImageIds(first=4, syntax=(30,))
    )
    decision = verifier.decide(target, draft, torch.full((4, 1, 1), 0.01))
    assert decision.accepted.tolist() == [1, 0, 0, 1]
    assert decision.ratios[:, 0, 0].tolist() == pytest.approx([1, 0, 0, 1 / size])


def test_bad_options_are_refused():
    table = neighbour_table(codebook(), 3)
    with pytest.raises(InputError, match="k=5"):
        RelaxedVerifier(table, k=5)
    with pytest.raises(InputError, match="delta=-1"):
        RelaxedVerifier(table, k=3, delta=-1)
    with pytest.raises(InputError, match="k=-1"):
        neighbour_table(codebook(), -1)


def greedy_path(target, draft, row):
    """Entries that greedy decoding takes, by the definition."""
    path, node = [], 0
    while True:
        best = target[row, node].argmax(dim=-1)
        hits = draft.valid[row] & (draft.parents[row] == node) & (draft.tokens[row] == best).all(dim=-1)
        if not hits.any():
            return path, best
        node = int(hits.nonzero()[0]) + 1
        path.append(node)


def test_greedy_keeps_what_greedy_decoding_takes():
    target, draft = tree_case()
    best = target[torch.arange(40)[:, None], draft.parents].argmax(dim=-1)
    eldest = (draft.parents[:, :, None] == draft.parents[:, None]).tril(-1).sum(dim=2) == 0
    tokens = torch.where(eldest[..., None], best, (best + 1) % V)
    verdict = GreedyVerifier()(target, Draft(tokens, draft.parents, None, draft.valid), Noise.replayed([]))
    for row in range(40):
        path, extra = greedy_path(target, Draft(tokens, draft.parents, None, draft.valid), row)
        assert verdict.path[row, : int(verdict.accepted[row])].tolist() == path
        assert torch.equal(verdict.extra[row], extra)
        assert verdict.tested[row].sum() >= len(path)
    assert verdict.accepted.unique().numel() > 2


def test_greedy_with_neighbours_keeps_more():
    target, draft = tree_case(rows=200)
    near = Neighbourhood(neighbour_table(codebook(), 10), 10, 0.5)
    plain, relaxed = (GreedyVerifier(n)(target, draft, Noise.replayed([])) for n in (None, near))
    assert (relaxed.accepted >= plain.accepted).all()
    assert relaxed.accepted.sum() > plain.accepted.sum()
    assert GreedyVerifier().lossless and not GreedyVerifier(near).lossless


def test_greedy_without_drafts():
    target = laws(3, 1, 1, V)
    draft = Draft.chain(torch.zeros(3, 0, 1, dtype=torch.long), None)
    verdict = GreedyVerifier()(target, draft, Noise.replayed([]))
    assert torch.equal(verdict.extra, target[:, 0].argmax(dim=-1))
    assert verdict.accepted.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", NAMED_TREES)
def test_named_trees(name):
    paths = static_paths(name)
    parents = parents_of(paths)
    assert paths == sorted(set(paths), key=lambda path: (len(path), path))
    mask = tree_structure(torch.tensor([[-1, *parents]]))[1][0]
    assert mask.sum(dim=1).tolist() == [1, *(len(path) + 1 for path in paths)]
    leaves = leaf_paths(parents)
    for row in leaves.tolist():
        entries = [entry for entry in row if entry >= 0]
        assert mask[entries[-1]].nonzero().flatten().tolist() == entries


def test_unknown_trees_are_refused():
    with pytest.raises(UnknownNameError, match="naive_extend_57"):
        static_paths("oak")


def test_part_of_a_tree_keeps_its_parents():
    parents = torch.tensor([[0, 0, 1, 2, 4, 4], [0, 1, 2, 0, 4, 5]])
    chosen = torch.tensor([[2, 4, 6], [1, 4, 5]])
    assert subtree(parents, chosen).tolist() == [[0, 1, 2], [0, 0, 2]]
