"""Scores of the vision tower, and merging inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pruning.tiny_models import FAMILIES, greedy, picture, prompt, text, tiny_model
from visgen.errors import InputError
from visgen.pruning.base import VisionTokenPruner
from visgen.pruning.views import ImageView, Merged, Selection


@dataclass(frozen=True)
class Looking(VisionTokenPruner):
    """Keeps everything and remembers what it was shown."""

    needs = frozenset({"scores", "text"})
    seen: Any = ()

    def select(self, images: Sequence[ImageView]) -> None:
        self.seen.extend(images)


@dataclass(frozen=True)
class LookingCloser(Looking):
    needs = frozenset({"scores", "tower"})


@dataclass(frozen=True)
class PairMerge(Looking):
    """Means of neighbouring patches after the tower's first layer."""

    needs = frozenset({"scores"})
    tower_layer = 0

    def merge(self, hidden_BLD: Tensor) -> Merged:
        cls, patches = hidden_BLD[:, :1], hidden_BLD[:, 1:]
        pairs = patches.unflatten(1, (-1, 2)).mean(dim=2)
        source = torch.arange(0, patches.shape[1], 2).expand(len(patches), -1)
        return Merged(torch.cat([cls, pairs], dim=1), source)


def rows(name: str) -> list[list[Any]]:
    return [
        [text(0, 3), picture(name, 1), text(1, 2), picture(name, 2, large=True)],
        [picture(name, 3, large=True), text(3, 9)],
    ]


def look(name: str, pruner: VisionTokenPruner, prompts: list[list[Any]]) -> list[ImageView]:
    seen: list[ImageView] = []
    with torch.no_grad(), type(pruner)(seen=seen)(tiny_model(name)):
        tiny_model(name)(**prompt(name, prompts))
    return seen


def eager_attention(name: str, inputs: dict[str, Tensor]) -> Tensor:
    """(T, L, L) attention of the tower's last layer, mean over heads, by the library's own eager code."""
    model, caught = tiny_model(name), []
    vision = getattr(model.model, "vision_tower", None) or model.model.visual
    last = [m for m in vision.encoder.modules() if type(m).__name__.endswith("Attention")][-1]
    hook = last.register_forward_hook(lambda module, args, output: caught.append(output[1]))
    vision.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        vision.set_attn_implementation("sdpa")
        hook.remove()
    return caught[0].mean(dim=1)


@pytest.mark.parametrize("name", ["llava", "llava-siglip"])
def test_scores_are_those_of_eager_attention(name: str) -> None:
    attention_TLL = eager_attention(name, prompt(name, rows(name)))
    wanted = attention_TLL[:, 0, 1:] if name == "llava" else attention_TLL.mean(dim=1)
    found = look(name, Looking(), rows(name))
    assert [(view.sample, view.ordinal) for view in found] == [(0, 0), (0, 1), (1, 0)]
    torch.testing.assert_close(torch.stack([v.scores_N for v in found]), wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        look("llava", LookingCloser(), rows("llava"))[0].tower.cls_attention()[0],
        look("llava", Looking(), rows("llava"))[0].scores_N,
    )


def test_scores_of_crops_follow_the_canvas() -> None:
    name = "llava_next"
    attention_TLL = eager_attention(name, prompt(name, [[picture(name, 2, large=True)]]))
    view = look(name, LookingCloser(), [[picture(name, 2, large=True)]])[0]
    patches, tower = view.tower.patch_N, view.tower
    assert tower.canvas == (2, 2) and tower.image_size == (30, 45) and tower.hidden_TNC.shape[:2] == (5, 36)
    line_ends = patches < 0
    assert line_ends.sum() == 8 and view.scores_N[line_ends].eq(-torch.inf).all()
    torch.testing.assert_close(view.features_ND[line_ends], tower.newline.expand(8, -1))
    wanted = attention_TLL[:, 0, 1:].flatten()[patches]
    torch.testing.assert_close(view.scores_N[~line_ends], wanted[~line_ends], atol=1e-6, rtol=1e-5)
    projected = tower.project(tower.hidden_TNC).flatten(0, 1)[patches]
    torch.testing.assert_close(view.features_ND[~line_ends], projected[~line_ends])


def test_scores_of_shuffled_patches_are_means_of_four() -> None:
    name = "internvl"
    attention_TLL = eager_attention(name, prompt(name, [[picture(name, 2, large=True)]]))
    view = look(name, Looking(), [[picture(name, 2, large=True)]])[0]
    map_TRC = attention_TLL[:, 0, 1:].view(3, 8, 8)
    wanted = torch.nn.functional.avg_pool2d(map_TRC, 2).flatten()
    torch.testing.assert_close(view.scores_N, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_scores_of_a_packed_tower_are_those_of_each_image_alone(name: str) -> None:
    view = look(name, Looking(), rows(name))
    alone = look(name, Looking(), [rows(name)[1]])[0]
    torch.testing.assert_close(view[2].scores_N, alone.scores_N, atol=1e-6, rtol=1e-5)
    assert [len(v) for v in view] == [16, 24, 24]
    torch.testing.assert_close(torch.stack([4 * v.scores_N.sum() for v in view]), torch.ones(3))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_is_what_is_no_image_and_no_padding(name: str) -> None:
    inputs = prompt(
        name, [[text(0, 3), picture(name, 1), text(1, 2)], [picture(name, 3, large=True), text(3, 9)]]
    )
    seen: list[ImageView] = []
    with torch.no_grad(), Looking(seen=seen)(tiny_model(name)):
        tiny_model(name)(**inputs)
    for view, row, mask in zip(seen, inputs["input_ids"], inputs["attention_mask"], strict=True):
        words = row[(mask == 1) & (row != 90)]
        assert view.text_ids_T.equal(words)
        assert view.text_TD.equal(tiny_model(name).model.language_model.embed_tokens(words))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_packed_tower_has_no_tiles(name: str) -> None:
    with pytest.raises(InputError, match="tower has no tiles"), LookingCloser(seen=[])(tiny_model(name)):
        pass


def test_a_merge_in_the_tower_shortens_the_prompt() -> None:
    model, inputs = tiny_model("llava"), prompt("llava", rows("llava"))
    seen: list[ImageView] = []
    with PairMerge(seen=seen)(model) as run:
        greedy(model, inputs)
    assert [len(view) for view in seen] == [18, 18, 18] and run.report.image_tokens == ((36, 36), (36,))
    assert [image.tolist() for row in run.report.entered for image in row] == [list(range(0, 36, 2))] * 3
    assert run.report.counts == ((36,) * 4, (18,) * 4)
    assert all(view.scores_N.shape == (18,) for view in seen)
    with torch.no_grad():
        merged = PairMerge().merge(torch.randn(2, 37, 24))
    assert merged.hidden_BLD.shape == (2, 19, 24)


def test_merged_crops_lose_their_line_ends_and_their_padding() -> None:
    model, name = tiny_model("llava_next"), "llava_next"
    whole = look(name, LookingCloser(), [[picture(name, 2, large=True)]])[0]
    seen: list[ImageView] = []
    with PairMerge(seen=seen)(model) as run:
        greedy(model, prompt(name, [[picture(name, 2, large=True), text(0, 4)]]))
    shown = whole.tower.patch_N
    wanted = ((shown >= 0) & (shown % 2 == 0)).nonzero().squeeze(1)
    assert run.report.entered[0][0].sort().values.tolist() == wanted.tolist()


@dataclass(frozen=True)
class Replacing(VisionTokenPruner):
    """Puts the mean of all tokens where two of them stood."""

    def select(self, images: Sequence[ImageView]) -> list[Selection]:
        means = [image.features_ND.mean(dim=0).expand(2, -1) for image in images]
        return [Selection(torch.tensor([7, 2]), mean) for mean in means]


def test_merged_features_stand_where_the_selection_says() -> None:
    model, inputs = tiny_model("llava"), prompt("llava", [[text(0, 4), picture("llava", 1), text(1, 3)]])
    caught: list[Tensor] = []
    hook = model.model.language_model.layers[0].register_forward_pre_hook(
        lambda module, args: caught.append(args[0])
    )
    with torch.no_grad(), Replacing()(model) as run:
        model(**inputs)
    hook.remove()
    seen = look("llava", Looking(), [[text(0, 4), picture("llava", 1), text(1, 3)]])[0]
    torch.testing.assert_close(caught[0][0, 4:6], seen.features_ND.mean(dim=0).expand(2, -1))
    assert caught[0].shape[1] == 4 + 2 + 3 and run.report.entries_BL[0, 4:6].tolist() == [6, 11]
