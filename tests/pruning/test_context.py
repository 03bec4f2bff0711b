"""The `with` block: what it refuses, and that it leaves a model as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from tests.pruning.tiny_models import FAMILIES, TEXT, greedy, picture, prompt, text, tiny_model
from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.chain import PrunerChain
from visgen.pruning.cls_attention import ClsAttention
from visgen.pruning.fastv import FastV
from visgen.pruning.random_choice import RandomPruner
from visgen.pruning.views import LayerView, Merged

EVERYWHERE = PrunerChain([ClsAttention(keep=0.5), FastV(keep=0.5)])
# Weights are compared apart; the others are what `generate` itself leaves on a model.
OWN = ("_parameters", "_buffers", "_modules", "rope_deltas", "_previous_max_cache_length")


def one(name: str) -> dict[str, Tensor]:
    return prompt(name, [[text(0, 5), picture(name, 1), text(1, 7)]])


def snapshot(model: Any) -> dict[str, Any]:
    """Everything that a block could leave behind."""
    return {
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "modules": [
            {
                key: list(value.items()) if isinstance(value, dict) else value
                for key, value in vars(module).items()
                if key not in OWN
            }
            for module in model.modules()
        ],
    }


@dataclass(frozen=True)
class Failing(VisionTokenPruner):
    """Breaks inside the language model."""

    def layers(self, num_layers: int) -> tuple[int, ...]:
        return (1,)

    def filter(self, view: LayerView) -> Tensor:
        raise RuntimeError("broken")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_comes_back_as_it_was(name: str) -> None:
    model, inputs = tiny_model(name), one(name)
    expected = greedy(model, inputs, 2)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    before = snapshot(model)
    with EVERYWHERE(model):
        assert snapshot(model)["modules"] != before["modules"]
        greedy(model, inputs, 2)
    assert snapshot(model) == before
    with pytest.raises(RuntimeError, match="broken"), Failing()(model):
        greedy(model, inputs, 2)
    assert snapshot(model) == before
    assert all(value.equal(weights[key]) for key, value in model.state_dict().items())
    assert greedy(model, inputs, 2).equal(expected)


def test_an_exception_inside_the_block_leaves_nothing_behind() -> None:
    model = tiny_model("llava")
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt), EVERYWHERE(model):
        raise KeyboardInterrupt
    assert snapshot(model) == before
    with pytest.raises(InputError, match="layer 3"), FastV(layer=4)(model):
        pass
    assert snapshot(model) == before


def test_one_block_reads_prompt_after_prompt_and_survives_a_failing_one() -> None:
    model, inputs = tiny_model("llava"), one("llava")
    words = prompt("llava", [[text(5, 9)]])
    with EVERYWHERE(model) as run:
        first = greedy(model, inputs)
        assert greedy(model, words).equal(greedy(model, words))
        with pytest.raises(ValueError, match="tokens"):
            greedy(model, {**inputs, "input_ids": inputs["input_ids"][:, 3:] * 0 + 90})
        assert greedy(model, inputs).equal(first)
    assert run.report.image_tokens == ((36,),)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_words_alone_are_left_alone(name: str) -> None:
    model, words = tiny_model(name), prompt(name, [[text(5, 9)], [text(6, 4)]])
    expected = greedy(model, words)
    with EVERYWHERE(model) as run:
        assert greedy(model, words).equal(expected)
        with pytest.raises(InputError, match="nothing was pruned yet"):
            _ = run.report


REFUSED: dict[str, tuple[str, Callable[[Any, dict[str, Tensor]], Any]]] = {
    "a static cache": ("StaticCache", lambda m, i: greedy(m, i, cache_implementation="static")),
    "chunked prefill": ("chunked prefill", lambda m, i: greedy(m, i, prefill_chunk_size=20)),
    "assisted decoding": ("assisted", lambda m, i: greedy(m, i, prompt_lookup_num_tokens=3)),
    "labels": ("labels", lambda m, i: m(**i, labels=i["input_ids"])),
    "embeddings": ("input_ids", lambda m, i: m(inputs_embeds=torch.zeros(1, 9, 32))),
    "a 4-D mask": ("attention_mask", lambda m, i: m(**{**i, "attention_mask": torch.zeros(1, 1, 9, 9)})),
    "another pruner": ("PrunerChain", lambda m, i: RandomPruner(keep=0.5)(m).__enter__()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_pruned_is_refused(what: str) -> None:
    model, message, call = tiny_model("llava"), *REFUSED[what]
    # The last words occur twice: prompt lookup proposes what followed them.
    inputs = prompt("llava", [[picture("llava", 1), text(1, 7), text(1, 7)]])
    before = snapshot(model)
    for pruner in (EVERYWHERE, PrunerChain([RandomPruner(keep=0.5)])):
        with pytest.raises(InputError, match=message), pruner(model):
            call(model, inputs)
        assert snapshot(model) == before


@pytest.mark.parametrize("pruner", [RandomPruner(keep=0.3), FastV(keep=0.3)], ids=["before", "inside"])
@pytest.mark.parametrize("where", ["in the block", "in another block", "outside"])
def test_a_second_turn_on_a_pruned_cache_is_refused(pruner: VisionTokenPruner, where: str) -> None:
    model, inputs, cache = tiny_model("llava"), one("llava"), DynamicCache()
    again = {"input_ids": torch.cat([inputs["input_ids"], torch.tensor([text(3, 8)])], dim=1)}
    again["attention_mask"] = torch.ones_like(again["input_ids"])
    with pruner(model):
        greedy(model, inputs, 3, cache=cache)
        if where == "in the block":
            with pytest.raises(InputError, match="further turn"):
                greedy(model, again, 3, cache=cache)
    if where == "outside":
        with pytest.raises(InputError, match="outside the pruner's block"):
            greedy(model, again, 3, cache=cache)
    if where == "in another block":
        with pruner(model), pytest.raises(InputError):
            greedy(model, again, 3, cache=cache)


def test_models_that_no_adapter_serves() -> None:
    other = LlamaForCausalLM(LlamaConfig(**TEXT))
    for model in (other, object(), tiny_model("llava").model):
        with pytest.raises(InputError, match="model"), RandomPruner(keep=0.5)(model):
            pass


@dataclass(frozen=True)
class Merging(VisionTokenPruner):
    """Merges nothing, but would."""

    tower_layer = 0

    def merge(self, hidden_BLD: Tensor) -> Merged:
        return Merged(hidden_BLD, torch.arange(hidden_BLD.shape[1] - 1).expand(len(hidden_BLD), -1))


MISFITS = {
    "compact positions of Qwen": ("qwen3_vl", RandomPruner(keep=0.5, positions="compact"), "preserve"),
    "a merge before pixels are shuffled": ("internvl", Merging(), "grid"),
    "a merge in a windowed tower": ("qwen2_5_vl", Merging(), "grid"),
    "two merges": ("llava", PrunerChain([Merging(), Merging()]), "two pruners"),
    "two filters of one layer": ("llava", PrunerChain([FastV(), FastV(keep=0.2)]), "two pruners"),
    "unlike positions": ("llava", PrunerChain([FastV(), FastV(layer=1, positions="compact")]), "positions"),
    "a layer that is not there": ("llava", FastV(layer=9), "layer 8"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_pruners_that_do_not_fit_the_model(what: str) -> None:
    name, pruner, message = MISFITS[what]
    with pytest.raises(InputError, match=message), pruner(tiny_model(name)):
        pass


def test_layers_that_look_back_a_window_only() -> None:
    model = tiny_model("llava")
    config = model.model.language_model.config
    config.layer_types = ["full_attention", "sliding_attention"]
    try:
        with pytest.raises(InputError, match="sliding_attention"), RandomPruner(keep=0.5)(model):
            pass
    finally:
        del config.layer_types


@pytest.mark.parametrize("keep", [0, 0.0, -1, 1.5, True, "half", None, float("nan")])
def test_keep_that_is_no_share(keep: Any) -> None:
    with pytest.raises(InputError, match="keep"):
        RandomPruner(keep=keep)


@pytest.mark.parametrize("option", ["positions", "order", "scope"])
def test_options_that_are_none_of_the_choices(option: str) -> None:
    with pytest.raises(InputError, match=option):
        RandomPruner(keep=0.5, **{option: "other"})
