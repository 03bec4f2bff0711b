"""The hooks on all families: pruning is exactly what it says, whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pruning.reference import masked_logits
from tests.pruning.tiny_models import FAMILIES, VOCABULARY, greedy, picture, prompt, text, tiny_model
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.chain import PrunerChain
from visgen.pruning.cls_attention import ClsAttention
from visgen.pruning.fastv import FastV
from visgen.pruning.random_choice import RandomPruner


def pruners(keep: float, **options: Any) -> dict[str, VisionTokenPruner]:
    return {
        "before": RandomPruner(keep=keep, **options),
        "inside": FastV(keep=keep, **options),
        "chain": PrunerChain([ClsAttention(keep=keep, **options), FastV(keep=keep, layer=1, **options)]),
    }


def one(name: str) -> dict[str, Tensor]:
    return prompt(name, [[text(0, 5), picture(name, 1, large=True), text(1, 7)]])


def three(name: str) -> list[list[Any]]:
    """Two pictures, one picture, none: different lengths, counts and padding."""
    return [
        [text(0, 3), picture(name, 1), text(1, 2), picture(name, 2, large=True), text(2, 3)],
        [picture(name, 3, large=True), text(3, 9)],
        [text(4, 30)],
    ]


def scores(model: Any, inputs: dict[str, Tensor], tokens: int = 3, **options: Any) -> tuple[Tensor, Tensor]:
    """New tokens (B, T) and the logits (B, T, V) they were taken from."""
    with torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, dim=1)


@pytest.mark.parametrize("place", ["inside", "chain"])
@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_all_changes_nothing(name: str, place: str) -> None:
    model, inputs = tiny_model(name), one(name)
    with pruners(1.0)[place](model) as run:
        found = greedy(model, inputs, 3)
    assert found.equal(greedy(model, inputs, 3))
    assert run.report.flops_ratio == run.report.paper_flops_ratio == 1


@pytest.mark.parametrize("place", ["before", "inside", "chain"])
@pytest.mark.parametrize("name", FAMILIES)
def test_preserving_positions_equals_masking_keys(name: str, place: str) -> None:
    model, inputs = tiny_model(name), prompt(name, three(name))
    with pruners(0.3)[place](model) as run:
        new, logits = scores(model, inputs)
    torch.testing.assert_close(logits, masked_logits(model, inputs, run.report, new), atol=2e-4, rtol=1e-4)
    assert run.report.flops_ratio < 1


@pytest.mark.parametrize("place", ["inside", "chain"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_equals_its_samples(name: str, place: str) -> None:
    model, rows = tiny_model(name), three(name)
    with pruners(0.3)[place](model) as run:
        _, together = scores(model, prompt(name, rows))
        kept = run.report.kept
        for row, logits, found in zip(rows[:2], together, kept, strict=False):
            _, alone = scores(model, prompt(name, [row]))
            torch.testing.assert_close(logits[None], alone, atol=2e-4, rtol=1e-4)
            assert [a.tolist() for a in found] == [a.tolist() for a in run.report.kept[0]]
    _, alone = scores(model, prompt(name, rows[2:]))
    torch.testing.assert_close(together[2:], alone, atol=2e-4, rtol=1e-4)
    assert kept[2] == () and together.shape[-1] == VOCABULARY


@pytest.mark.parametrize("place", ["before", "inside", "chain"])
@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_compact_positions_equal_a_prompt_that_never_had_the_tokens(name: str, place: str) -> None:
    model = tiny_model(name)
    for row in three(name)[:2]:
        alone = prompt(name, [row])
        with pruners(0.3, positions="compact")[place](model) as run:
            _, single = scores(model, alone)
        with pruners(0.3, positions="compact")[place](model):
            _, together = scores(model, prompt(name, [row, [text(9, 40)]]))
        torch.testing.assert_close(together[:1], single, atol=2e-4, rtol=1e-4)
        if place == "before":
            torch.testing.assert_close(single[:, :1], hand_pruned(model, alone, run.report.entries_BL))


def hand_pruned(model: Any, inputs: dict[str, Tensor], entries_BL: Tensor) -> Tensor:
    """(B, 1, V) logits of the language model on a shorter prompt."""
    caught: list[Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
        hook.remove()
        hidden = model.model.language_model(inputs_embeds=caught[0][:, entries_BL[0]]).last_hidden_state
        return model.lm_head(hidden[:, -1:])


@pytest.mark.parametrize("place", ["before", "inside", "chain"])
def test_eager_attention_gives_the_same(place: str) -> None:
    model, inputs = tiny_model("llava"), prompt("llava", three("llava"))
    with pruners(0.3)[place](model):
        _, expected = scores(model, inputs)
        model.set_attn_implementation("eager")
        try:
            _, found = scores(model, inputs)
        finally:
            model.set_attn_implementation("sdpa")
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("place", ["before", "inside", "chain"])
@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_a_plain_forward_without_a_cache(name: str, place: str) -> None:
    model, inputs = tiny_model(name), prompt(name, three(name))
    with pruners(0.3)[place](model) as run, torch.no_grad():
        _, expected = scores(model, inputs, tokens=1)
        positions = model._prepare_position_ids_for_generation(inputs["input_ids"], dict(inputs))
        found = model(**inputs, position_ids=positions, use_cache=False).logits
        assert found.shape[1] == run.report.entries_BL.shape[1] or place != "before"
        torch.testing.assert_close(found[:, -1:], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("place", ["inside", "chain"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_beams_and_several_answers(name: str, place: str) -> None:
    model, inputs = tiny_model(name), prompt(name, three(name)[:2])
    with pruners(1.0)[place](model):
        found = greedy(model, inputs, 4, num_beams=3)
    assert found.equal(greedy(model, inputs, 4, num_beams=3))
    with pruners(0.3)[place](model) as run:
        greedy(model, inputs, 4, num_beams=3)
    kept = [[image.tolist() for image in row] for row in run.report.kept]
    assert kept[0] == kept[1] == kept[2] != kept[3] == kept[4] == kept[5]
