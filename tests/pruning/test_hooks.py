"""The hooks on all families: pruning is exactly what it says, and the model comes back as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pruning.tiny_models import FAMILIES, greedy, picture, prompt, text, tiny_model
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.cls_attention import ClsAttention
from visgen.pruning.fastv import FastV
from visgen.pruning.random_choice import RandomPruner

PLACES = {
    "before": lambda keep, **o: RandomPruner(keep=keep, **o),
    "scores": lambda keep, **o: ClsAttention(keep=keep, **o),
    "inside": lambda keep, **o: FastV(keep=keep, **o),
}


def one(name: str, large: bool = True) -> dict[str, Tensor]:
    return prompt(name, [[text(0, 5), picture(name, 1, large), text(1, 7)]])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_all_changes_nothing(name: str, place: str) -> None:
    model, inputs = tiny_model(name), one(name)
    with PLACES[place](1.0)(model) as run:
        found = greedy(model, inputs)
    assert found.equal(greedy(model, inputs))
    assert run.report.flops_ratio == run.report.paper_flops_ratio == 1
