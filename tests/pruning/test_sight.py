"""Sharing one look at the pictures changes nothing that a pruner keeps or a model answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.pruning.tiny_models import greedy, picture, prompt, text, tiny_model
from visgen.errors import InputError
from visgen.pruning.chain import PrunerChain
from visgen.pruning.divprune import DivPrune
from visgen.pruning.fastv import FastV
from visgen.pruning.making import parse_pruner
from visgen.pruning.mustdrop import MustDrop
from visgen.pruning.sight import look

METHODS = {
    "llava": ["divprune:0.3", "cls:0.3", "globalcom2:0.3", "recoverable:0.3", "tokencorr:0.3", "lazyllm:0.3"],
    "llava_next": ["cls:0.3", "globalcom2:0.3", "recoverable:0.3", "tokencorr:0.3+fastv:0.5"],
    "internvl": ["cls:0.3", "tokencorr:0.3"],
    "qwen2_5_vl": ["divprune:0.3", "cls:0.3"],
    "qwen3_vl": ["divprune:0.3", "cls:0.3+fastv:0.5"],
}


def two(name: str) -> dict[str, torch.Tensor]:
    return prompt(
        name, [[text(0, 5), picture(name, 1, large=True), text(1, 7)], [picture(name, 2), text(3, 6)]]
    )


@pytest.mark.parametrize("name", METHODS)
def test_one_look_serves_all_methods(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_model(name), two(name)
    expected = {}
    for method in METHODS[name]:
        with parse_pruner(method)(model) as run:
            expected[method] = greedy(model, inputs, 3).tolist(), kept(run), run.report.cache_bytes
    whole = greedy(model, inputs, 3)
    sight = look(model, inputs)
    tower = model.model.visual if name.startswith("qwen") else model.model.vision_tower
    monkeypatch.setattr(tower, "forward", None)  # nobody may look again
    with sight.whole():
        assert greedy(model, inputs, 3).equal(whole)
    for method in METHODS[name]:
        with sight.pruned(parse_pruner(method)) as run:
            found = greedy(model, inputs, 3).tolist(), kept(run), run.report.cache_bytes
        assert found == expected[method], method
    assert "get_image_features" not in vars(model.model)


def kept(run: Any) -> list[list[list[int]]]:
    return [[image.tolist() for image in row] for row in run.report.kept]


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_rows_that_merge_alike_stand_together(name: str) -> None:
    model, pruner = tiny_model(name), MustDrop(merge_threshold=0.1, keep=0.5, after=(1,))
    rows = [[picture(name, seed, large=seed % 2 == 0), text(seed, 5)] for seed in range(6)]
    inputs = prompt(name, rows)
    groups = look(model, inputs, [0]).even_rows(pruner)
    assert sorted(row for group in groups for row in group) == list(range(6)) and 1 < len(groups) < 6
    for group in groups:
        with pruner(model) as run:
            greedy(model, prompt(name, [rows[i] for i in group]), 1)
            together = kept(run)
            for row, found in zip(group, together, strict=True):
                greedy(model, prompt(name, [rows[row]]), 1)
                assert kept(run) == [found]
    assert look(model, inputs).even_rows(DivPrune(keep=0.5)) == [list(range(6))]


def test_what_cannot_be_shared_is_refused() -> None:
    model = tiny_model("qwen2_5_vl")
    sight = look(model, two("qwen2_5_vl"))
    with pytest.raises(InputError, match="must stay a grid"):
        sight.even_rows(MustDrop())
    with pytest.raises(InputError, match="has no tiles"), sight.pruned(parse_pruner("tokencorr:0.5")):
        pass
    with pytest.raises(InputError, match="no pixel_values"):
        look(model, {"input_ids": torch.ones(1, 3, dtype=torch.long)})


def test_cache_bytes_are_those_of_the_cache() -> None:
    model = tiny_model("llava")
    inputs = prompt("llava", [[text(0, 5), picture("llava", 1), text(1, 7)]])
    for pruner in (
        DivPrune(keep=9),
        FastV(keep=9, layer=1),
        MustDrop(keep=9, merge_threshold=None, after=(1,)),
        PrunerChain([DivPrune(keep=18), FastV(keep=9)]),
    ):
        with pruner(model) as run, torch.no_grad():
            cache = model(**inputs, use_cache=True).past_key_values
        layers = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        assert run.report.cache_bytes == (sum(x.numel() * x.element_size() for x in layers),)
