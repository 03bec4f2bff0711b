"""Pruners from words, the registry, and the baselines' choices."""

from __future__ import annotations

import pytest
import torch

from visgen.errors import InputError
from visgen.pruning import PRUNERS
from visgen.pruning.base import VisionTokenPruner, count_kept
from visgen.pruning.chain import PrunerChain
from visgen.pruning.cls_attention import ClsAttention
from visgen.pruning.fastv import FastV
from visgen.pruning.lazyllm import LazyLLM
from visgen.pruning.making import parse_pruner
from visgen.pruning.mustdrop import MustDrop
from visgen.pruning.random_choice import RandomPruner
from visgen.pruning.uniform import Uniform, uniform_indices
from visgen.pruning.views import ImageView, LayerView


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("uniform:0.25", Uniform(keep=0.25)),
        ("uniform:64", Uniform(keep=64)),
        ("uniform:1", Uniform(keep=1)),
        ("uniform:1.0", Uniform(keep=1.0)),
        ("uniform", Uniform()),
        ("fastv", FastV()),
        ("fastv:0.25:layer=3:positions=compact", FastV(keep=0.25, layer=3, positions="compact")),
        ("cls:keep=9:scope=sample", ClsAttention(keep=9, scope="sample")),
        ("lazyllm:0.5:depths=0.4,0.8", LazyLLM(keep=0.5, depths=(0.4, 0.8))),
        ("mustdrop:merge_threshold=none:after=1,", MustDrop(merge_threshold=None, after=(1,))),
        ("random:0.5:seed=7+fastv:0.5", PrunerChain([RandomPruner(keep=0.5, seed=7), FastV(keep=0.5)])),
    ],
)
def test_words(words: str, wanted: VisionTokenPruner) -> None:
    found = parse_pruner(words)
    assert found == wanted
    assert type(getattr(found, "keep", None)) is type(getattr(wanted, "keep", None))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("unifrom:0.5", "did you mean uniform"),
        ("", "pruner=''"),
        ("uniform:2.5", "keep=2.5"),
        ("uniform:0", "keep=0"),
        ("uniform:half", "uniform.keep"),
        ("fastv:0.5:depth=3", "unknown option 'depth'"),
        ("fastv:0.5:keep=3", "given twice"),
        ("fastv:0.5+", "unknown pruner ''"),
        ("fastv:layer=0", "layer=0"),
        ("fastv:layer=two", "fastv.layer"),
        ("mustdrop:after=1", "mustdrop.after"),
        ("lazyllm:depths=0.4,half", "lazyllm.depths"),
    ],
)
def test_words_that_mean_nothing(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        parse_pruner(words)


@pytest.mark.parametrize("name", PRUNERS.names())
def test_every_registered_pruner_is_made_by_its_name(name: str) -> None:
    assert isinstance(parse_pruner(name), PRUNERS.load(name))
    assert issubclass(PRUNERS.load(name), VisionTokenPruner)


@pytest.mark.parametrize(
    ("keep", "total", "wanted"),
    [(0.1, 25, 2), (0.1, 35, 4), (0.001, 10, 1), (1.0, 7, 7), (9, 7, 7), (1, 7, 1)],
)
def test_how_many_are_kept(keep: float, total: int, wanted: int) -> None:
    assert count_kept(keep, total) == wanted == Uniform(keep=keep).budget(total)


def test_uniform_indices_are_the_middles_of_equal_parts() -> None:
    assert uniform_indices(12, 3).tolist() == [2, 6, 10]
    assert uniform_indices(7, 7).tolist() == list(range(7))
    assert uniform_indices(10_000, 1).tolist() == [5000]


def view(count: int, **more: object) -> ImageView:
    return ImageView(torch.randn(count, 4), torch.arange(count), count, sample=0, ordinal=0, **more)  # type: ignore[arg-type]


def test_random_choices_are_those_of_seed_and_image() -> None:
    first, again = (RandomPruner(keep=9, seed=3).select([view(40)])[0].index_K for _ in range(2))
    assert first.equal(again) and len(first.unique()) == 9
    assert not first.equal(RandomPruner(keep=9, seed=4).select([view(40)])[0].index_K)
    counts = torch.zeros(5)
    for seed in range(600):
        counts[RandomPruner(keep=2, seed=seed).select([view(5)])[0].index_K] += 1
    assert (counts - 240).abs().max() < 60  # five standard deviations of a binomial are 60


def test_cls_attention_keeps_the_highest_scores() -> None:
    scores = torch.tensor([0.1, 0.5, -torch.inf, 0.5, 0.2])
    assert ClsAttention(keep=3).select([view(5, scores_N=scores)])[0].index_K.tolist() == [1, 3, 4]


@pytest.mark.parametrize(("scope", "wanted"), [("image", [1, 4]), ("sample", [4, 3])])
def test_fastv_keeps_what_the_last_token_looks_at(scope: str, wanted: list[int]) -> None:
    attention = torch.tensor([[[0.1, 0.3, 0.0, 0.2, 0.4]], [[0.1, 0.1, 0.0, 0.3, 0.2]]])
    shown = LayerView(
        layer=1,
        stage=0,
        num_layers=4,
        attention_HTN=attention,
        hidden_ND=torch.zeros(5, 4),
        token_N=torch.arange(5),
        image_N=torch.tensor([0, 0, 0, 1, 1]),
        num_tokens=5,
        sample=0,
        notes={},
    )
    keep = 1 if scope == "image" else 2
    assert FastV(keep=keep, scope=scope).filter(shown).tolist() == wanted  # type: ignore[arg-type]


def test_chains_are_taken_apart() -> None:
    chain = PrunerChain([PrunerChain([Uniform()]), FastV()])
    assert chain.parts == (Uniform(), FastV())
    for wrong in ([], [object()], ["fastv"]):
        with pytest.raises(InputError, match="pruners"):
            PrunerChain(wrong)  # type: ignore[arg-type]
