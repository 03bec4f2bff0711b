"""Random weights to start training from."""

import pytest
import torch
from torch import nn

from visgen.nn.initial import init_matrices


def test_linear_layers_and_tables_are_drawn_in_the_order_of_modules():
    model = nn.Sequential(
        nn.Linear(64, 32), nn.LayerNorm(32), nn.Embedding(50, 32), nn.Linear(32, 8, bias=False)
    )
    torch.manual_seed(0)
    init_matrices(model, nn.init.normal_, std=0.5)
    torch.manual_seed(0)
    for drawn in (model[0].weight, model[2].weight, model[3].weight):
        assert torch.equal(drawn, torch.empty_like(drawn).normal_(0.0, 0.5))
    assert not model[0].bias.any() and bool((model[1].weight == 1).all())


@pytest.mark.parametrize("law", [nn.init.normal_, nn.init.trunc_normal_])
def test_the_usual_deviation_is_a_fiftieth(law):
    layer = nn.Linear(200, 200)
    torch.manual_seed(0)
    init_matrices(layer, law)
    assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
