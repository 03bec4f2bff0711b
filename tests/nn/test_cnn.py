"""The decoder without gradients takes another memory layout and writes in place: the image is the same."""

import pytest
import torch

from visgen.nn.cnn import ConvDecoder, ResBlock


def make_decoder(**options):
    torch.manual_seed(0)
    sizes = {
        "in_channels": 4,
        "out_channels": 3,
        "ch": 8,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "groups": 4,
    }
    return ConvDecoder(**sizes, **options)


@pytest.mark.parametrize("options", [{}, {"patch_size": 2, "mid_blocks": False, "attention": False}], ids=str)
@pytest.mark.parametrize("side", [6, 32])  # from 32 × 32 on, channels last
def test_with_and_without_gradients(options, side):
    decoder = make_decoder(**options)
    z = torch.randn(2, 4, side, side)
    before = z.clone()
    with torch.no_grad():
        image = decoder(z)
    assert torch.allclose(image, decoder(z), atol=1e-5)
    assert image.is_contiguous()
    assert torch.equal(z, before)


def test_gradients_reach_every_weight():
    decoder = make_decoder()
    decoder(torch.randn(1, 4, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in decoder.parameters())


def test_a_block_leaves_its_input():
    x = torch.randn(1, 8, 32, 32)
    before = x.clone()
    with torch.no_grad():
        ResBlock(8, 8, 4)(x)
    assert torch.equal(x, before)
