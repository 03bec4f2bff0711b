"""Blocked weights compute what plain ones do, and are used where they can be only."""

import pytest
import torch
from torch import nn

from visgen.generators.conditions import ClassCondition
from visgen.generators.raster import RasterTransformer
from visgen.nn import packed as module_of_packed
from visgen.nn.packed import PackedLinear, packed, packed_weights
from visgen.nn.sampling import TokenSampling

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def small(monkeypatch):
    """Every layer of 1,000 elements counts as large."""
    monkeypatch.setattr(module_of_packed, "SMALLEST_WEIGHT", 1000)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_plain_layers_for_any_number_of_rows(dtype, bias):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("a CPU without bfloat16")
    torch.manual_seed(0)
    linear = nn.Linear(50, 70, bias=bias).to(dtype)
    made = PackedLinear(linear)
    for shape in ((1, 1), (1, 2), (3, 1), (2, 2), (5, 3), (1, 9)):  # from fewer rows to more and back
        for x in (torch.randn(*shape, 50).to(dtype), torch.randn(50, *shape).to(dtype).movedim(0, -1)):
            assert torch.allclose(made(x), linear(x), atol=1e-5 if dtype == torch.float32 else 0.03)
            assert made(x).shape == (*shape, 70)


def test_rows_do_not_show_those_before_them():
    made = PackedLinear(nn.Linear(50, 70))
    x = torch.randn(1, 50)
    before = made(x)
    made(torch.full((3, 50), torch.inf))
    assert torch.equal(made(x), before)


def test_large_layers_only_and_the_original_stays(small):
    model = nn.Sequential(nn.Linear(50, 70), nn.GELU(), nn.Sequential(nn.Linear(70, 3), nn.Linear(3, 500)))
    before, x = model.state_dict(), torch.randn(2, 50)
    made = packed(model)
    kinds = [type(one) for one in made.modules() if not isinstance(one, nn.Sequential)]
    assert kinds == [PackedLinear, nn.GELU, nn.Linear, PackedLinear]
    assert made[2][0].weight is model[2][0].weight
    assert torch.allclose(made(x), model(x), atol=1e-5)
    assert not any(isinstance(one, PackedLinear) for one in model.modules())
    assert all(
        value is before[name] or value.equal(before[name]) for name, value in model.state_dict().items()
    )


def test_nothing_is_packed_where_it_cannot_be(small, monkeypatch):
    model = nn.Sequential(nn.Linear(50, 70))
    with packed_weights(False):
        assert packed(model) is model
    with torch.enable_grad():
        assert packed(model) is model
    half = nn.Sequential(nn.Linear(50, 70).half())
    meta = nn.Sequential(nn.Linear(50, 70, device="meta"))
    tiny = nn.Sequential(nn.Linear(5, 7))
    assert [packed(one) for one in (half, meta, tiny)] == [half, meta, tiny]
    compiled = nn.Sequential(torch.compile(nn.Linear(50, 70)))
    assert packed(compiled) is compiled
    other = nn.Sequential(nn.Linear(50, 70))
    monkeypatch.setattr(module_of_packed, "LARGEST_TOTAL", 4 * 3499)
    assert packed(other) is other
    monkeypatch.setattr(module_of_packed, "LARGEST_TOTAL", 4 * 3500)
    assert packed(other) is not other


@pytest.mark.parametrize("options", [{}, {"window": 2}, {"num_codes": 2}], ids=str)
def test_a_session_says_the_same(small, options):
    torch.manual_seed(0)
    size = {
        "grid": (4, 4),
        "codebook_size": 40,
        "hidden_size": 64,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 5,
    }
    model = RasterTransformer(**size | options).eval()
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter) + (parameter.ndim == 1)
    drawn = []
    for wanted in (True, False):
        with packed_weights(wanted):
            session = model.session(ClassCondition(torch.tensor([1])), TokenSampling(guidance_scale=2.0), 3)
        assert any(isinstance(one, PackedLinear) for one in session._blocks.modules()) is wanted
        first = session.prefill().logits
        ids = torch.arange(3 * model.num_codes).view(1, 3, -1)
        drawn.append((first, session.extend(ids).logits))
    for ours, plain in zip(*drawn, strict=True):
        assert torch.allclose(ours, plain, atol=1e-4) and plain.std() > 0.1
