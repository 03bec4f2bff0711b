"""LPIPS on weights given by path."""

import pytest
import torch

from visgen.errors import InputError
from visgen.nn.perceptual import _WIDTHS, PerceptualLoss


def test_perceptual_loss_reads_the_official_layouts(tmp_path):
    vgg16 = pytest.importorskip("torchvision.models").vgg16
    with torch.device("meta"):
        shapes = {
            k: v.shape for k, v in vgg16(weights=None).state_dict().items() if k.startswith("features.")
        }
    state = {k: torch.randn(shape) * (0.05 if len(shape) == 4 else 0) for k, shape in shapes.items()}
    torch.save({**state, "classifier.0.bias": torch.zeros(1)}, tmp_path / "vgg16.pth")
    linear = {f"lin{k}.model.1.weight": torch.full((1, width, 1, 1), 2.0) for k, width in enumerate(_WIDTHS)}
    torch.save(linear, tmp_path / "vgg.pth")
    plain = PerceptualLoss(tmp_path / "vgg16.pth")
    doubled = PerceptualLoss(tmp_path / "vgg16.pth", tmp_path / "vgg.pth")
    a, b = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    a.requires_grad_()
    assert plain(a, a) == 0 and plain(a, b) > 0
    assert doubled(a, b).item() == pytest.approx(2 * plain(a, b).item(), rel=1e-5)
    pairs = torch.cat([a, b]), torch.cat([b, b])
    assert torch.allclose(plain.distances(*pairs), torch.tensor([plain(a, b).item(), 0.0]))
    plain(a, b).backward()
    assert a.grad.abs().sum() > 0 and not any(p.requires_grad for p in plain.parameters())
    with pytest.raises(InputError, match="linear_path"):
        PerceptualLoss(tmp_path / "vgg16.pth", tmp_path / "vgg16.pth")


def test_perceptual_loss_needs_a_file(tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(InputError, match="weights_path"):
        PerceptualLoss(None)
    torch.save({"features.0.bias": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match="vgg16"):
        PerceptualLoss(tmp_path / "wrong.pth")
