"""LPIPS (Zhang et al. 2018) on VGG16 weights given by path; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from visgen.errors import InputError

_STOPS = (4, 9, 16, 23, 30)  # VGG16 features up to relu1_2, 2_2, 3_3, 4_3, 5_3
_WIDTHS = (64, 128, 256, 512, 512)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet statistics on [-1, 1]


class PerceptualLoss(nn.Module):
    """Mean LPIPS distance of two batches (B, 3, H, W) in [-1, 1], H and W at least 16.

    Args:
        weights_path: torchvision's vgg16 state dict (.pth or .safetensors).
        linear_path: LPIPS v0.1 `vgg.pth` (keys `lin{k}.model.1.weight`); None weighs all channels by 1.

    Raises:
        InputError: no path, a missing or unfit file, or torchvision not installed.
    """

    def __init__(self, weights_path: str | Path | None, linear_path: str | Path | None = None) -> None:
        super().__init__()
        self.features = _vgg_features(weights_path)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)
        for k, weight in enumerate(_linear_weights(linear_path)):
            self.register_buffer(f"linear_{k}", weight)
        self.eval().requires_grad_(False)

    def forward(self, recon: Tensor, target: Tensor) -> Tensor:
        """Scalar; gradients reach both arguments."""
        return self.distances(recon, target).mean()

    def distances(self, recon: Tensor, target: Tensor) -> Tensor:
        """The distance of each pair, (B,)."""
        layers = []
        for k, (a, b) in enumerate(zip(self._activations(recon), self._activations(target), strict=True)):
            difference = (_unit(a) - _unit(b)).square()
            layers.append((difference * getattr(self, f"linear_{k}")).sum(1).mean((1, 2)))
        return torch.stack(layers).sum(0)

    def _activations(self, images: Tensor) -> list[Tensor]:
        x, start, out = (images - self.shift) / self.scale, 0, []
        for stop in _STOPS:
            x, start = self.features[start:stop](x), stop
            out.append(x)
        return out


def _unit(x: Tensor) -> Tensor:
    x = x.float()
    return x / (x.norm(dim=1, keepdim=True) + 1e-10)


def _vgg_features(path: str | Path | None) -> nn.Sequential:
    try:
        from torchvision.models import vgg16
    except ImportError as error:
        raise InputError("PerceptualLoss needs torchvision; run pip install 'visgen[eval]'") from error
    with torch.device("meta"):  # 138M parameters, of which the 15M of the features are wanted
        features = vgg16(weights=None).features[: _STOPS[-1]]
    for module in features.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # the activations before it are kept for the gradient
    state = _read(path, "weights_path", "torchvision's vgg16 state dict")
    state = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    try:
        features.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InputError(
            f"weights_path={str(path)!r} is not torchvision's vgg16 state dict: {error}"
        ) from error
    return features.float()


def _linear_weights(path: str | Path | None) -> list[Tensor]:
    if path is None:
        return [torch.ones(1, width, 1, 1) for width in _WIDTHS]
    state = _read(path, "linear_path", "the vgg.pth of LPIPS v0.1")
    found = [state.get(f"lin{k}.model.1.weight", torch.empty(0)).float() for k in range(len(_WIDTHS))]
    if any(weight.shape != (1, width, 1, 1) for weight, width in zip(found, _WIDTHS, strict=True)):
        raise InputError(
            f"linear_path={str(path)!r} is not the vgg.pth of LPIPS v0.1; keys lin0.model.1.weight, …"
        )
    return found


def _read(path: str | Path | None, argument: str, what: str) -> dict[str, Tensor]:
    if path is None or not Path(path).is_file():
        raise InputError(f"{argument}={path and str(path)!r} is no file; give the path of {what}")
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
