"""The pre-norm block with the parameters of `nn.MultiheadAttention`."""

import pytest
import torch
from torch import nn

from visgen.errors import InputError
from visgen.nn.vit import SelfAttention, ViTBlock, init_vit


def test_attention_is_that_of_torch_and_takes_its_state_dict():
    torch.manual_seed(0)
    theirs, ours = nn.MultiheadAttention(24, 3, batch_first=True), SelfAttention(24, 3)
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(theirs.state_dict())
    x, mask = torch.randn(2, 7, 24), torch.rand(2, 7, 7) > 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6)
    expected = theirs(x, x, x, attn_mask=~mask.repeat_interleave(3, 0))[0]  # rows b · heads + h
    assert torch.allclose(ours(x, mask), expected, atol=1e-6)


def test_a_mask_of_keys_leaves_them_out():
    torch.manual_seed(0)
    block, x = ViTBlock(16, 2), torch.randn(1, 6, 16)
    present = torch.tensor([[True, False, True, True, False, True]])
    out = block(x, present)
    assert torch.allclose(out[:, present[0]], block(x[:, present[0]]), atol=1e-6)
    changed = torch.where(present[..., None], x, x + 5)
    assert torch.equal(block(changed, present)[:, present[0]], out[:, present[0]])


def test_heads_must_divide_the_width():
    for heads in (0, 5):
        with pytest.raises(InputError, match=f"heads={heads}"):
            ViTBlock(16, heads)


def test_initial_values_are_small_and_biases_zero():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 64), nn.Conv2d(3, 8, 4))
    init_vit(layers)
    assert 0.015 < layers[0].weight.std() < 0.025
    assert not layers[0].bias.any() and not layers[1].bias.any()
