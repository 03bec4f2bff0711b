"""The convolutions of MaskGIT and MAGE."""

import torch
import torch.nn.functional as F

from visgen.nn.maskgit_cnn import MaskGITBlock, MaskGITDecoder, MaskGITEncoder

SIZES = {"ch": 8, "ch_mult": (1, 2, 2), "num_res_blocks": 2, "z_channels": 5, "groups": 4}


def test_shapes_go_down_and_up():
    torch.manual_seed(0)
    encoder, decoder = MaskGITEncoder(3, **SIZES), MaskGITDecoder(3, **SIZES)
    z = encoder(torch.randn(2, 3, 24, 16))
    assert z.shape == (2, 5, 6, 4)
    assert decoder(z).shape == (2, 3, 24, 16)


def test_where_channels_change_the_shortcut_starts_from_the_branch():
    torch.manual_seed(0)
    block, x = MaskGITBlock(8, 16, groups=4), torch.randn(1, 8, 4, 4)
    h = block.conv1(F.silu(block.norm1(x)))
    h = block.conv2(F.silu(block.norm2(h)))
    assert torch.allclose(block(x), h + F.conv2d(h, block.nin_shortcut.weight))
    assert block.nin_shortcut.weight.shape == (16, 16, 1, 1)


def test_biases_stand_where_the_official_code_has_them():
    encoder, decoder = MaskGITEncoder(3, **SIZES), MaskGITDecoder(3, **SIZES)
    biased = {
        name.removesuffix(".bias") for name, _ in encoder.named_parameters() if name.endswith("conv_out.bias")
    }
    assert biased == {"conv_out"}
    assert encoder.conv_in.bias is None
    convolutions = [
        n for n, m in decoder.named_modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None
    ]
    assert sorted(convolutions) == ["conv_in", "conv_out", "up.1.upsample.conv", "up.2.upsample.conv"]
    assert [len(level.block) for level in decoder.up] == [2, 2, 2]
