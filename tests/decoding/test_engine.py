"""The loop around drafts and verifiers: who advances how far, what is fed, and what is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from tests.decoding.cases import CASES, draw
from tests.decoding.toy import ToyLaw, ToySession, toy_table
from visgen.decoding.base import Draft, DraftSource, Resources, Verdict
from visgen.decoding.drafts.window import WindowShape
from visgen.decoding.engine import decode
from visgen.decoding.jacobi import CoupledJacobi, SpeculativeJacobi
from visgen.decoding.making import make_strategy
from visgen.decoding.recycling import TokenRecycling
from visgen.decoding.sequential import Sequential
from visgen.errors import InputError
from visgen.nn.noise import Noise

GREEDY = ToyLaw(top_k=1)


class Constant(DraftSource):
    """Drafts of one id; keeps what it was shown."""

    def __init__(self, drafts: int) -> None:
        self.drafts, self.counts = drafts, []

    def propose(self, run):
        return Draft.chain(torch.ones(len(run.ids), self.drafts, 1, dtype=torch.long), None)

    def update(self, run, draft, step, target_BNKV, verdict):
        self.counts.append(run.counts.tolist())


@dataclass
class Scripted:
    """Accepts so many drafts per pass and row, as far as they are valid."""

    accept: list[list[int]]
    lossless: bool = False
    seen: list[Draft] = field(default_factory=list)

    def __call__(self, target_BNKV, draft, noise):
        self.seen.append(draft)
        b, n, k = draft.tokens.shape
        wanted = torch.tensor(self.accept[min(len(self.seen), len(self.accept)) - 1])
        accepted = torch.minimum(wanted, draft.valid.sum(1))
        path = torch.arange(1, n + 1).expand(b, n)
        tested = (path <= accepted[:, None] + 1) & draft.valid
        return Verdict(path, accepted, torch.full((b, k), 2), tested)


def _run(accept, length=6, drafts=2):
    session = ToySession(len(accept[0]), toy_table(length=length))
    source, verifier = Constant(drafts), Scripted(accept)
    ids, stats = decode(session, GREEDY, Noise.shared(0), source, verifier)
    return session, source, verifier, ids.squeeze(2), stats


def test_rows_advance_at_their_own_pace():
    _, source, _, ids, stats = _run([[0, 2], [1, 0]])
    assert source.counts[:2] == [[2, 4], [4, 5]]
    assert ids[0, 1:4].tolist() == [2, 1, 2] and ids[1, 1:5].tolist() == [1, 1, 2, 2]
    assert stats.passes == (4, 4)  # the second row was done with its third pass of drafts


def test_nothing_accepted_is_one_token_per_pass():
    session, _, _, ids, stats = _run([[0, 0]])
    assert stats.passes == (6, 6) and session.passes == 6 and stats.tokens_per_pass == 1
    assert (ids[:, 1:] == 2).all() and sum(stats.accepted) == 0


def test_everything_accepted_ends_in_time():
    session, _, verifier, ids, stats = _run([[2, 2]], length=8)
    # 1 + 3 + 3 tokens, and the eighth alone: its drafts would lie beyond the end.
    assert stats.passes == (4, 4)
    assert [draft.valid.sum(1).tolist() for draft in verifier.seen] == [[2, 2], [2, 2], [1, 1]]
    assert int(session.committed.max()) <= 7
    assert (ids[:, [1, 2, 4, 5, 7]] == 1).all()


def test_a_finished_row_waits_and_is_not_counted():
    session, source, verifier, ids, stats = _run([[2, 0]])
    assert stats.passes == (3, 6)
    assert [row[0] for row in source.counts] == [4, 6, 6, 6, 6]
    assert not any(draft.valid[0].any() for draft in verifier.seen[2:])
    assert session.committed.tolist() == [5, 5] and ids[0].tolist()[1:] == [1, 1, 2, 1, 1]


def test_tests_are_counted_by_position_of_the_image():
    _, _, _, _, stats = _run([[1, 0]], length=5)
    assert stats.tested == (0, 2, 2, 2, 2)
    assert stats.accepted == (0, 1, 0, 1, 0)
    assert stats.to_dict()["tokens_per_pass"] == 10 / sum(stats.passes)


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_the_sum_of_what_passes_keep(name):
    session = ToySession(5, toy_table(length=8))
    ids, stats = CASES[name](session, ToyLaw(), Noise.shared(3), Resources(grid=(2, 4)))
    assert stats.lossless and stats.tokens == 8 and ids.shape == (5, 8, 1)
    assert session.passes == max(stats.passes) <= 8
    # One token per pass, the last one of a row perhaps a draft, and all others are accepted drafts.
    assert 5 * 8 - sum(stats.accepted) <= sum(stats.passes) <= 5 * 8 - sum(stats.accepted) + 5
    assert all(a <= t <= 5 * 8 for a, t in zip(stats.accepted, stats.tested)) or not stats.tested


@pytest.mark.parametrize("name", CASES)
def test_no_pass_is_larger_than_announced(name):
    _, session = draw(CASES[name], toy_table(length=8), ToyLaw(), Noise.shared(3), 4)
    assert session.fed <= CASES[name].entries


# ---- the shape of the window


def test_alternatives_stand_beside_the_first_drafts():
    shape = WindowShape.build(9, branching=3, depth=2)
    assert shape.parents.tolist() == [0, 0, 0, 1, 1, 1, 4, 7]
    assert shape.depths.tolist() == [1, 1, 1, 2, 2, 2, 3, 4]
    assert shape.ranks.tolist() == [0, 1, 2, 0, 1, 2, 0, 0]
    assert (shape.length, shape.branching, shape.levels) == (4, 3, 2)
    assert shape.descend[2].tolist() == [0, 2, 4, 7, 8]  # itself, then the chain
    assert shape.ancestors[6].nonzero().flatten().tolist() == [0, 3, 6]


def test_the_way_down_prefers_own_descendants():
    shape = WindowShape.of_paths([(0,), (1,), (0, 0), (1, 0), (1, 1), (0, 0, 0)])
    assert shape.descend[2].tolist() == [0, 2, 4, 6]
    assert shape.descend[5].tolist() == [0, 1, 5, 6]


def test_a_window_that_cannot_hold_its_alternatives_is_refused():
    with pytest.raises(InputError, match=r"window=4 .* branching=2 to depth=2: that is 5 entries"):
        CoupledJacobi(window=4, branching=2, depth=2)
    assert WindowShape.build(5, 2, 2).drafts == 4 and WindowShape.build(1, 2, 2).drafts == 0


# ---- strategies by name


def test_strategies_from_names_values_and_options():
    assert make_strategy("sjd:12") == SpeculativeJacobi(window=12)
    assert make_strategy("sequential") == Sequential()
    assert make_strategy("jacobi:12:branching=2:init=uniform") == CoupledJacobi(
        12, branching=2, init="uniform"
    )
    assert make_strategy("recycling:nodes=none:above=false") == TokenRecycling(above=False)
    assert make_strategy("recycling", {"nodes": 5, "above": False}) == TokenRecycling(5, above=False)
    assert make_strategy("sjd", {"interval": [1, 5]}).interval == (1, 5)
    ready = CoupledJacobi(window=4)
    assert make_strategy(ready) is ready


@pytest.mark.parametrize(
    "strategy, options, message",
    [
        ("jacoby", None, "unknown decoding strategy 'jacoby': did you mean jacobi"),
        ("sjd", {"windw": 3}, "unknown option 'windw'.*init, interval, verifier, window"),
        ("sjd:1.5", None, "window=1.5 is a float; it needs to be int"),
        ("sjd:3", {"window": 2}, "window is given twice"),
        ("sjd:3:4", {}, "window is given twice"),
        ("sjd:windows=4", {}, "windows"),
        ("sequential:2", None, "no main option"),
        ("sjd:0", None, "window=0 must be a whole number of entries, 1 or more"),
        ("sjd", {"init": "zero"}, "init='zero' is unknown; use one of uniform"),
        ("jacobi", {"branching": 0}, "branching=0"),
        ("recycling", {"width": 99}, "width=99 must be between 1 and 8"),
        (Sequential(), {"window": 2}, "made already"),
    ],
)
def test_bad_strategies_are_refused(strategy, options, message):
    with pytest.raises(InputError, match=message):
        make_strategy(strategy, options)


@pytest.mark.parametrize(
    "strategy, message",
    [
        (
            CoupledJacobi(window=7, branching=2),
            "branching=2 needs one code per position, and this model has 2",
        ),
        (TokenRecycling(nodes=3), "one code per position, and this model has 2"),
    ],
)
def test_trees_are_refused_where_positions_have_several_codes(strategy, message):
    with pytest.raises(InputError, match=message):
        draw(strategy, toy_table(length=3, vocab=2, codes=2), ToyLaw(), Noise.shared(0), 1)


def test_neighbours_need_a_grid():
    session = ToySession(1, toy_table())
    with pytest.raises(InputError, match="init='above' needs a grid"):
        SpeculativeJacobi(window=3, init="above")(session, ToyLaw(), Noise.shared(0))
