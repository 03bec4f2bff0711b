"""What a run tells, and what it says of the cost."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.pruning.tiny_models import LAYERS, TEXT, greedy, picture, prompt, text, tiny_model
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.fastv import FastV
from visgen.pruning.flops import DecoderShape, prompt_flops, ratio
from visgen.pruning.uniform import Uniform
from visgen.pruning.views import ImageView, Selection

VICUNA_7B = DecoderShape(4096, 11008, 32, 32, 32, 128)
VICUNA_13B = DecoderShape(5120, 13824, 40, 40, 40, 128)
# Tokens of the questions of DivPrune's eleven image tasks.
QUESTIONS = (15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57)


@pytest.mark.parametrize(
    ("shape", "full", "pruned"), [(VICUNA_7B, 3.228, 0.512), (VICUNA_13B, 6.281, 1.002)], ids=["7b", "13b"]
)
def test_the_formula_gives_divprunes_own_numbers(shape: DecoderShape, full: float, pruned: float) -> None:
    kept = 576 - round((1 - 0.098) * 576)
    whole = [prompt_flops(shape, words, 576) for words in QUESTIONS]
    short = [prompt_flops(shape, words, 576, kept) for words in QUESTIONS]
    assert sum(whole) / len(whole) / 1e12 == pytest.approx(full, abs=6e-4)
    assert sum(short) / len(short) / 1e12 == pytest.approx(pruned, abs=6e-4)


def test_pruning_after_some_layers_costs_those_in_full() -> None:
    expected = 2 * VICUNA_7B.paper_layer(600) + 30 * VICUNA_7B.paper_layer(24 + 288)
    assert prompt_flops(VICUNA_7B, 24, 576, 288, after=2) == expected
    assert ratio([600, 600] + [312] * 30, 600, VICUNA_7B.paper_layer) == expected / (
        32 * VICUNA_7B.paper_layer(600)
    )


def test_the_exact_count_is_that_of_the_matrix_products() -> None:
    model, inputs = tiny_model("llava"), prompt("llava", [[text(0, 5), picture("llava", 1), text(1, 7)]])
    model.set_attn_implementation("eager")
    shape, counts = DecoderShape.of(model.config.text_config), []
    try:
        for keep in (1.0, 0.25):
            with torch.no_grad(), Uniform(keep=keep)(model) as run:
                counter = FlopCounterMode(display=False, depth=None)
                with counter:
                    model(**inputs, logits_to_keep=1)
            found = counter.get_flop_counts()
            counts.append(sum(sum(ops.values()) for name, ops in found.items() if _is_layer(name)))
    finally:
        model.set_attn_implementation("sdpa")
    assert counts[0] == 2 * LAYERS * shape.layer(48)  # a multiply-add is two operations
    assert counts[1] / counts[0] == run.report.flops_ratio


def _is_layer(name: str) -> bool:
    words = name.split(".")
    return "language_model" in words and len(words) > 2 and words[-2] == "layers"


def test_the_report_of_a_batch() -> None:
    rows = [[text(0, 5), picture("llava", 1), text(1, 2), picture("llava", 2)], [text(4, 9)]]
    model = tiny_model("llava")
    with FastV(keep=9)(model) as run:
        greedy(model, prompt("llava", rows), 2)
    report = run.report
    assert report.image_tokens == ((36, 36), ()) and report.text_tokens == (7, 9)
    assert report.counts == ((72, 72, 18, 18), (0, 0, 0, 0)) and report.average_tokens == (45, 0)
    assert [len(image) for image in report.kept[0]] == [9, 9]
    assert [image.tolist() for image in report.entered[0]] == [list(range(36))] * 2
    wanted = [ratio([79, 79, 25, 25], 79, report.shape.layer), 1]
    assert report.flops_ratio == pytest.approx(sum(wanted) / 2)
    assert report.selection_ms > 0 and report.prefill_ms > 0
    assert report.entries_BL.tolist() == [list(range(79)), [-1] * 70 + list(range(70, 79))]
    assert json.loads(json.dumps(report.to_dict()))["counts"][0] == [72, 72, 18, 18]
    assert TEXT["num_key_value_heads"] == report.shape.num_key_heads


class LastFirst(VisionTokenPruner):
    """The last tokens, the very last one first."""

    def select(self, images: list[ImageView]) -> list[Selection]:
        return [Selection(torch.arange(len(one)).flip(0)[: self.budget(len(one))]) for one in images]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"keep": 3}, [[33, 34, 35], [33, 34, 35]]),
        ({"keep": 3, "order": "rank"}, [[35, 34, 33], [35, 34, 33]]),
        ({"keep": 37, "scope": "sample"}, [[35], list(range(36))]),
        ({"keep": 0.0139}, [[35], [35]]),
    ],
)
def test_order_and_scope(options: dict[str, object], wanted: list[list[int]]) -> None:
    row = [text(0, 2), picture("llava", 1), text(1, 2), picture("llava", 2), text(1, 2)]
    caught: list[Tensor] = []
    model, inputs = tiny_model("llava"), prompt("llava", [row])
    layer = model.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    with torch.no_grad():
        model(**inputs)
        with LastFirst(**options)(model) as run:  # type: ignore[arg-type]
            model(**inputs)
    hook.remove()
    assert [image.tolist() for image in run.report.entered[0]] == wanted
    places = [0, 1, *(2 + i for i in wanted[0]), 38, 39, *(40 + i for i in wanted[1]), 76, 77]
    assert run.report.entries_BL[0].tolist() == places
    assert caught[1].equal(caught[0][:, places])
