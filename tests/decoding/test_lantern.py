"""LANTERN: fewer passes than exact acceptance, for another law; without neighbours it is exact."""

from __future__ import annotations

import pytest
import torch

from tests.decoding.test_speculative import z_score
from tests.decoding.toy import ToyLaw, sequence_law, toy_table
from tests.decoding.toy_drafter import ToyDrafter, ToyTarget
from visgen.decoding.base import Resources
from visgen.decoding.lantern import Lantern, _table
from visgen.decoding.making import make_strategy
from visgen.errors import InputError
from visgen.nn.noise import Noise

TABLE, LONG = toy_table(length=4, vocab=4), toy_table(length=24, vocab=4)
CODES = torch.tensor([[0.0], [0.1], [5.0], [5.1]])  # two pairs
LAW = ToyLaw()


def decode(strategy, rows=20_000, *, drafter=0.5, law=LAW, codebook=CODES, table=TABLE):
    session = ToyTarget(rows, table)
    given = None if drafter is None else ToyDrafter(drafter)
    return strategy(session, law, Noise.shared(0), Resources(codebook, given))


@pytest.fixture(scope="module")
def true_law():
    return sequence_law(TABLE, LAW)


SHAPES = {
    "dynamic": {"tokens": 4, "depth": 3, "top_k": 2},
    "static": {"tree": "static", "shape": "mc_sim_7b_63"},
    "chain": {"tree": "chain", "tokens": 3},
    "jacobi": {"drafts": "jacobi", "window": 3},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_without_neighbours_it_is_exact(shape, true_law):
    ids, stats = decode(Lantern(k=0, **SHAPES[shape]))
    assert abs(z_score(ids, true_law)) < 4
    assert stats.lossless  # as the verifier says; the strategy as such does not promise it


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("delta", [0.4, 3.0])
def test_neighbours_save_passes_and_change_the_law(shape, delta, true_law):
    exact, relaxed = Lantern(k=0, **SHAPES[shape]), Lantern(k=1, delta=delta, **SHAPES[shape])
    assert z_score(decode(relaxed)[0], true_law) > 10
    before, after = (sum(decode(s, 500, table=LONG)[1].passes) for s in (exact, relaxed))
    assert after < 0.985 * before


def test_drafts_are_the_window_when_there_is_no_drafter():
    assert decode(Lantern(window=3), 4, drafter=None)[1].draft_passes == 0
    assert decode(Lantern(), 4)[1].draft_passes > 0
    with pytest.raises(InputError, match="'lantern' needs a drafter"):
        decode(Lantern(drafts="drafter"), 4, drafter=None)


def test_forced_positions_are_kept():
    law = ToyLaw(formats={1: 2, 3: 0})
    ids, _ = decode(Lantern(k=3, delta=0.9), 200, law=law)
    assert bool((ids[:, 1] == 2).all()) and bool((ids[:, 3] == 0).all())


def test_the_table_follows_the_codebook():
    codes = CODES.clone()
    first = _table(codes, 1)
    assert _table(codes, 1) is first
    codes[0] = 5.05
    assert _table(codes, 1)[0, 0] in (2, 3) and first[0, 0] == 1


def test_bad_options_are_refused():
    assert make_strategy("lantern:0.2").delta == 0.2
    for options in ({"delta": -1.0}, {"k": -1}, {"drafts": "other"}, {"window": 0}, {"tree": "bush"}):
        with pytest.raises(InputError):
            make_strategy("lantern", options)
    with pytest.raises(InputError, match="codebook=None"):
        decode(Lantern(), 1, codebook=None)
    with pytest.raises(InputError, match="codebook of 3 codes"):
        decode(Lantern(), 1, codebook=CODES[:3])
