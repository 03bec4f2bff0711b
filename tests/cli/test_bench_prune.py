"""`visgen bench prune`: a table, and one JSON document as the last line of stdout."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from typer.testing import Result

from visgen.errors import InputError
from visgen.evaluation.benchmark.prune import SelectionBench, choose_before, choose_inside
from visgen.evaluation.benchmark.prune_cases import LayerCase, Widths, image_case
from visgen.evaluation.benchmark.random_llava import random_llava
from visgen.evaluation.benchmark.straightforward_pruning import BEFORE
from visgen.pruning.making import parse_pruner

SMALL = Widths(hidden_size=32, num_heads=4, tower_size=16, tower_heads=2)
QUICK = ("--tokens", "40", "--size", "tiny", "--repeats", 1)


def test_the_last_line_is_a_json_document(run: Callable[..., Result]) -> None:
    names = "uniform:0.25,cls:10,fastv:0.5,uniform:0.5+fastv:0.5:layer=1"
    result = run("bench", "prune", "--pruners", names, *QUICK)
    assert result.exit_code == 0, result.output
    *table, last = result.stdout.splitlines()
    found = json.loads(last)
    assert set(found) >= {"schema", "bench", "model", "device", "dtype", "threads", "versions", "rows"}
    assert (found["bench"], found["model"], found["depth"]) == ("prune", "tiny", 4)
    rows = {(row["part"], row["name"]): row for row in found["rows"]}
    assert rows["selection", "cls:10"]["same_choice"] and rows["selection", "fastv:0.5"]["same_choice"]
    assert ("selection", "baseline: fastv:0.5, straightforward") in rows
    assert rows["prefill", "prefill, all tokens"]["kept"] == 81
    assert rows["prefill", "prefill, cls:10"]["kept"] == 10
    assert rows["prefill", "prefill, uniform:0.25"]["flops_ratio"] < 0.6
    assert any("prefill, fastv:0.5" in line for line in table)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--pruners", "nothing:0.1"), "unknown pruner"),
        (("--pruners", "uniform:0.1,"), "--pruners"),
        (("--pruners", "uniform:1.5"), "keep=1.5"),
        (("--size", "llava-7b", "--tokens", "9", "--pruners", "uniform:0.5"), "llava-1.5-7b"),
        (("--tokens", "many"), "--tokens"),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., Result], words: tuple[str, ...], told: str) -> None:
    result = run("bench", "prune", *words)
    assert result.exit_code == 2 and told in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_the_straightforward_way_chooses_the_same(name: str) -> None:
    for tokens in (30, 2 * 576):
        view, pruner = image_case(tokens, SMALL, torch.device("cpu")), parse_pruner(f"{name}:0.2")
        found, wanted = choose_before(pruner, view), BEFORE[name][0](pruner, view)
        assert sorted(found.tolist()) == sorted(wanted.tolist()) and len(found) == round(0.2 * tokens)


@pytest.mark.parametrize("name", ["fastv:0.3", "fastv:7"])
def test_rows_choose_what_the_whole_map_does(name: str) -> None:
    place, pruner = torch.device("cpu"), parse_pruner(name)
    image, case = image_case(50, SMALL, place), LayerCase.build(50, SMALL, place)
    with torch.no_grad():
        assert choose_inside(pruner, image, case).equal(choose_inside(pruner, image, case, whole=True))


def test_what_would_not_fit_has_no_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visgen.evaluation.benchmark.straightforward_pruning.LIMIT", 1000)
    rows = list(SelectionBench(["fastv:0.5", "cls:0.5"], [40], widths=SMALL, repeats=1).run())
    assert [row["name"] for row in rows] == ["fastv:0.5", "cls:0.5"]


def test_sizes() -> None:
    with pytest.raises(InputError, match="depth=1"):
        random_llava("tiny", 1, torch.device("cpu"), torch.float32)
    model = random_llava("tiny", 3, torch.device("cpu"), torch.bfloat16)
    assert len(model.model.language_model.layers) == 3 and model.dtype == torch.bfloat16
