"""Recomputed attention rows against the library's eager attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.pruning.tiny_models import FAMILIES, picture, prompt, text, tiny_model
from visgen.pruning.rows import attention_rows
from visgen.pruning.scoring import attention_received, cls_products, top_per_group


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_those_of_eager_attention(name: str, cached: bool) -> None:
    model = tiny_model(name)
    inputs = prompt(name, [[text(0, 4), picture(name, 1), text(1, 3)], [picture(name, 2), text(2, 3)]])
    attention = model.model.language_model.layers[1].self_attn
    calls: list[dict[str, Tensor]] = []
    hook = attention.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = model(**inputs, output_attentions=True, use_cache=True)
    finally:
        hook.remove()
        model.set_attn_implementation("sdpa")
    valid_BL, rows = inputs["attention_mask"].bool(), torch.tensor([-3, -1])
    cos, sin = calls[0]["position_embeddings"]
    for row in range(2):
        keys = out.cache.layers[1].keys[row] if cached else None
        one = min(row, len(cos) - 1)
        with torch.no_grad():
            found = attention_rows(
                attention,
                calls[0]["hidden_states"][row],
                (cos[one], sin[one]),
                rows % valid_BL.shape[1],
                valid_BL[row],
                keys,
            )
        torch.testing.assert_close(found, out.attentions[1][row][:, rows], atol=2e-6, rtol=1e-5)


def test_attention_received_sums_whole_maps() -> None:
    q, k = torch.randn(2, 600, 3, 8).unbind(0)
    maps_HNN = torch.einsum("nhd,mhd->hnm", q, k).mul(8**-0.5).softmax(dim=-1)
    torch.testing.assert_close(attention_received(q, k), maps_HNN.mean(dim=(0, 1)))


def test_cls_products_are_the_first_row() -> None:
    q, k = torch.randn(2, 2, 5, 12).unbind(0)
    split = (2, 5, 3, 4)
    wanted = torch.einsum("tlhd,tmhd->thlm", q.view(split), k.view(split))[:, :, 0] / 2
    torch.testing.assert_close(cls_products(q, k, 3), wanted)


def test_top_per_group_prefers_the_first_of_equals() -> None:
    scores = torch.tensor([1.0, 3.0, 3.0, 0.0, 5.0, 3.0])
    groups = torch.tensor([0, 0, 0, 1, 1, 0])
    assert top_per_group(scores, groups, [2, 1]).tolist() == [1, 2, 4]
