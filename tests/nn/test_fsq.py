"""Finite scalar quantization: ids and codes, gradients, precision."""

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.quantizers.fsq import FSQ

LEVELS = [[8, 8, 8, 5, 5, 5], [2], [7, 5, 5, 5, 5], [4, 4, 4], [6, 3, 9, 10]]


@pytest.mark.parametrize("levels", LEVELS)
def test_every_id_has_a_code_of_its_own(levels):
    fsq = FSQ(levels)
    ids = torch.arange(fsq.codebook_size)
    codes = fsq.codes(ids)
    assert torch.equal(fsq.ids(codes), ids)
    assert codes.min() >= -1 and codes.max() <= 1 and codes.dtype == torch.float32


@pytest.mark.parametrize("levels", LEVELS)
def test_all_values_of_a_channel_are_reached(levels):
    z = torch.linspace(-8, 8, 4001)[:, None].expand(-1, len(levels))
    out = FSQ(levels)(z)
    for channel, count in zip(out.codes.unbind(1), levels, strict=True):
        assert len(channel.unique()) == count and bool((channel.diff() >= 0).all())
    assert torch.equal(FSQ(levels).codes(out.ids), out.codes)


def test_gradients_pass_the_rounding_and_keep_the_slope_of_the_bound():
    fsq, z = FSQ([8, 5]), torch.tensor([[0.3, -0.7]], requires_grad=True)
    fsq(z).codes.sum().backward()
    straight = z.detach().clone().requires_grad_()
    (fsq.bound(straight) / torch.tensor([4.0, 2.0])).sum().backward()
    assert z.grad is not None and torch.equal(z.grad, straight.grad)


def test_bfloat16_changes_nothing_but_its_input():
    fsq = FSQ([8, 8, 8, 5]).to(torch.bfloat16)
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = fsq(z)
    exact = FSQ([8, 8, 8, 5])(z.float())
    assert torch.equal(out.ids, exact.ids) and torch.equal(out.codes, exact.codes)
    assert out.codes.dtype == torch.float32


@pytest.mark.parametrize("levels", [[], [1, 8], [0], [2**40, 2**40]])
def test_levels_that_make_no_codes_are_refused(levels):
    with pytest.raises(InputError, match="levels"):
        FSQ(levels)


@pytest.mark.parametrize("ids", [[-1], [40]])
def test_ids_beyond_the_codebook_are_refused(ids):
    with pytest.raises(InputError, match="0 … 39"):
        FSQ([8, 5]).codes(torch.tensor(ids))
