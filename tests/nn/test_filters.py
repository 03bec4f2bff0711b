"""Top-k and top-p take a short way; ties must not show that."""

import pytest
import torch

from visgen.nn.sampling import filter_logits


def by_definition(logits, top_k, top_p):
    """One row at a time, over a stable sort of all ids."""
    out = logits.clone()
    for row in out:
        if top_k is not None:
            row[row < row.sort(descending=True).values[min(top_k, len(row)) - 1]] = -torch.inf
        if top_p is not None and top_p < 1:
            ascending, order = row.sort(stable=True)
            gone = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
            gone[-1] = False
            row[order[gone]] = -torch.inf
    return out


@pytest.mark.parametrize("top_k", [None, 1, 3, 15, 16])
@pytest.mark.parametrize("top_p", [None, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("tied", [False, True])
def test_filters_are_those_of_the_definition(top_k, top_p, tied):
    logits = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)) * 2
    logits = logits.round() if tied else logits
    before = logits.clone()
    found = filter_logits(logits.view(5, 8, 16), top_k, top_p).view(40, 16)
    assert torch.equal(found, by_definition(logits, top_k, top_p))
    assert torch.equal(logits, before)
    assert torch.isfinite(found).any(dim=-1).all()


def test_all_ties():
    assert torch.equal(filter_logits(torch.zeros(1, 4), 2, 0.5), torch.tensor([[-torch.inf] * 2 + [0.0] * 2]))
