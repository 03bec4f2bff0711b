"""Every method on the families it serves: all is all, budgets are met, batches equal their samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.pruning.reference import masked_logits
from tests.pruning.test_hooks import scores, three
from tests.pruning.tiny_models import greedy, picture, prompt, text, tiny_model
from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.chain import PrunerChain
from visgen.pruning.divprune import DivPrune
from visgen.pruning.globalcom2 import GlobalCom2
from visgen.pruning.lazyllm import LazyLLM
from visgen.pruning.making import parse_pruner
from visgen.pruning.mustdrop import MustDrop
from visgen.pruning.recoverable import RecoverableCompression
from visgen.pruning.tokencorr import TokenCorr

CASES: list[tuple[str, VisionTokenPruner]] = [
    *((name, DivPrune(keep=0.3)) for name in ("llava_next", "qwen2_5_vl")),
    ("qwen3_vl", MustDrop(keep=0.3, merge_threshold=None, after=(0, 2))),
    ("llava-siglip", LazyLLM(keep=0.3)),
    *((name, GlobalCom2(keep=0.3)) for name in ("llava", "llava_next")),
    *((name, RecoverableCompression(keep=0.3)) for name in ("llava", "llava_next")),
    *((name, TokenCorr(keep=0.3)) for name in ("llava_next", "internvl")),
]
NAMES = [f"{type(pruner).__name__}-{name}" for name, pruner in CASES]
EVERYWHERE = pytest.mark.parametrize(("name", "pruner"), CASES, ids=NAMES)
CLOSE = {"atol": 2e-4, "rtol": 1e-4}


def one(name: str) -> dict[str, torch.Tensor]:
    return prompt(name, [[text(0, 5), picture(name, 1, large=True), text(1, 7)]])


@EVERYWHERE
def test_keeping_all_changes_nothing(name: str, pruner: VisionTokenPruner) -> None:
    model, inputs = tiny_model(name), one(name)
    with replace(pruner, keep=1.0)(model) as run:
        found = greedy(model, inputs, 2)
    assert found.equal(greedy(model, inputs, 2))
    assert run.report.flops_ratio == 1


@EVERYWHERE
def test_a_batch_equals_its_samples(name: str, pruner: VisionTokenPruner) -> None:
    model, rows = tiny_model(name), three(name)[:2]
    with pruner(model) as run:
        _, together = scores(model, prompt(name, rows), 2)
        kept = run.report.kept
        for row, logits, found in zip(rows, together, kept):
            _, alone = scores(model, prompt(name, [row]), 2)
            torch.testing.assert_close(logits[None], alone, **CLOSE)
            assert [a.tolist() for a in found] == [a.tolist() for a in run.report.kept[0]]
    assert 0 < sum(len(image) for row in kept for image in row) < sum(map(sum, run.report.image_tokens)) * 2


@pytest.mark.parametrize(
    ("name", "pruner"),
    [
        ("llava_next", DivPrune(keep=9)),
        ("llava", LazyLLM(keep=9)),
        ("llava", GlobalCom2(keep=9)),
        ("llava_next", RecoverableCompression(keep=9)),
        ("internvl", TokenCorr(keep=9, compress_global=True)),
    ],
)
def test_a_count_is_met_exactly(name: str, pruner: VisionTokenPruner) -> None:
    model, inputs = tiny_model(name), one(name)
    with pruner(model) as run:
        greedy(model, inputs, 1)
    assert [len(image) for image in run.report.kept[0]] == [9]


@pytest.mark.parametrize(
    ("name", "pruner"),
    [
        ("llava_next", DivPrune(keep=0.2)),
        ("llava_next", GlobalCom2(keep=0.2)),
        ("llava", TokenCorr(keep=0.2, average=False)),
        ("llava", MustDrop(keep=0.2, merge_threshold=None, after=(1,))),
    ],
)
def test_preserving_positions_equals_masking_keys(name: str, pruner: VisionTokenPruner) -> None:
    model, inputs = tiny_model(name), prompt(name, three(name))
    with pruner(model) as run:
        new, logits = scores(model, inputs, 2)
    report = run.report
    if isinstance(pruner, MustDrop):  # its caches of layers 1 are cut after the prefill; compare that alone
        new, logits = new[:, :1], logits[:, :1]
    torch.testing.assert_close(logits, masked_logits(model, inputs, report, new), **CLOSE)


@pytest.mark.parametrize("name", ["llava", "llava_next"])
@pytest.mark.parametrize("order", ["index", "rank"])
def test_mustdrop_merges_in_the_tower_and_keeps_the_key_set(name: str, order: Any) -> None:
    model, pruner = (
        tiny_model(name),
        MustDrop(merge_threshold=-1.0, order=order, after=(1,), individual_threshold=1.1),
    )
    pruner, inputs = replace(pruner, global_threshold=1.1), one(name)  # all may go but the keys
    with pruner(model) as run:
        greedy(model, inputs, 3)
    report = run.report
    entered, kept = len(report.entered[0][0]), len(report.kept[0][0])
    assert entered <= report.image_tokens[0][0] // 9 + 1
    assert kept == -(-entered * 8 // 100)
    assert report.counts[0] == (entered, entered, kept, kept)
    assert set(report.kept[0][0].tolist()) <= set(report.entered[0][0].tolist())


def test_mustdrop_refuses_a_later_part_that_drops() -> None:
    chain = PrunerChain([MustDrop(merge_threshold=None, after=(1,)), DivPrune(keep=0.5)])
    with chain(tiny_model("llava")), pytest.raises(InputError, match="last pruner of a chain"):
        greedy(tiny_model("llava"), one("llava"), 1)
    chain = PrunerChain([DivPrune(keep=0.5), MustDrop(keep=4, merge_threshold=None, after=(1,))])
    with chain(tiny_model("llava")) as run:
        greedy(tiny_model("llava"), one("llava"), 1)
    assert len(run.report.entered[0][0]) == 18 and 4 <= len(run.report.kept[0][0]) <= 6


def test_windows_that_do_not_fit_are_refused() -> None:
    pruner = MustDrop(window=4)
    with pruner(tiny_model("llava")), pytest.raises(InputError, match="1, 2, 3 or 6 rows"):
        greedy(tiny_model("llava"), one("llava"), 1)


def test_lazyllm_drops_more_the_deeper() -> None:
    with LazyLLM(keep=0.25, depths=(0.25, 0.75))(tiny_model("llava")) as run:
        greedy(tiny_model("llava"), one("llava"), 1)
    assert run.report.counts[0] == (36, 18, 18, 9)


@pytest.mark.parametrize("method", ["globalcom2", "recoverable"])
def test_towers_without_cls_tokens_per_patch_are_refused(method: str) -> None:
    for name, message in (
        ("internvl", "CLS token and one token per patch"),
        ("qwen2_5_vl", "whose tower has no tiles"),
    ):
        with pytest.raises(InputError, match=message), parse_pruner(f"{method}:0.3")(tiny_model(name)):
            greedy(tiny_model(name), one(name), 1)


def test_methods_that_read_patches_stand_before_a_merge() -> None:
    chain = PrunerChain([MustDrop(after=(1,)), TokenCorr(keep=0.5)])
    with chain(tiny_model("llava")), pytest.raises(InputError, match="put it first"):
        greedy(tiny_model("llava"), one("llava"), 1)


def test_recoverable_decides_by_itself_and_takes_other_text_scores() -> None:
    model, asked = tiny_model("llava"), []

    def text_scores(view: Any) -> torch.Tensor:
        asked.append(len(view))
        return (torch.arange(len(view)) == 30).float()

    with RecoverableCompression(keep=3, text_scores=text_scores)(model) as run:
        greedy(model, one("llava"), 1)
    assert asked == [36] and len(run.report.kept[0][0]) == 3
    with RecoverableCompression()(model) as run:
        greedy(model, one("llava"), 1)
    assert 1 <= len(run.report.kept[0][0]) < 36


def test_tokencorr_keeps_the_thumbnail_and_draws_by_its_seed() -> None:
    model, inputs = tiny_model("llava_next"), one("llava_next")
    kept = []
    for seed in (None, 1, 1, 2):
        with TokenCorr(keep=0.2, seed=seed)(model) as run:
            greedy(model, inputs, 1)
        kept.append(run.report.kept[0][0].tolist())
        assert kept[-1][:36] == list(range(36))
    assert kept[1] == kept[2] and kept[1] != kept[0] and kept[1] != kept[3]


def test_globalcom2_keeps_line_ends_and_ranks_the_thumbnail() -> None:
    model, inputs = tiny_model("llava_next"), one("llava_next")
    pruner = GlobalCom2(keep=0.25, order="rank", positions="compact")
    with pruner(model) as run:
        greedy(model, inputs, 1)
    kept, total = run.report.kept[0][0], run.report.image_tokens[0][0]
    thumbnail, rest = kept[:9].tolist(), kept[9:].tolist()
    assert max(thumbnail) < 36 <= min(rest) and thumbnail != sorted(thumbnail) and rest == sorted(rest)
    _, ends = line_end_places(model, inputs)
    assert set(ends) <= set(rest) and len(kept) < total / 2


def line_end_places(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[int, list[int]]:
    """How many places the image has, and which of them are line ends."""
    features = model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output[0]
    ends = (features - model.model.image_newline).abs().amax(dim=1) < 1e-6
    return len(features), ends.nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("mustdrop:key_rate=0.0", "key_rate=0.0"),
        ("mustdrop:window=0", "window=0"),
        ("tokencorr:similarity=2.0", "similarity=2.0"),
        ("divprune:1.5", "keep=1.5"),
    ],
)
def test_bad_options_are_refused(method: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_pruner(method)


def test_depths_must_be_layers_of_their_own() -> None:
    for depths, message in (((0.5, 0.55), "another layer"), ((1.0,), r"\(0, 1\)"), ((), r"\(0, 1\)")):
        with pytest.raises(InputError, match=message), LazyLLM(depths=depths)(tiny_model("llava")):
            pass
