"""The InceptionV3 of FID, built from torch-fidelity's layers with weights that are read safely.

torch-fidelity's own extractor unpickles its weight file whole and resizes inside; ours takes the resize from
the protocol.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import (
    BasicConv2d,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE_1,
    InceptionE_2,
)

from visgen.checkpoints.files import read_state_dict
from visgen.evaluation.digests import module_digest
from visgen.evaluation.extractors import ExtractorOptions, Features, at_fixed_shape
from visgen.evaluation.inception_weights import find_inception_weights
from visgen.evaluation.protocols import EvaluationProtocol
from visgen.evaluation.resizing import RESIZES
from visgen.nn.building import load_strictly

ROWS = 8  # images at once, always
DIMS, CLASSES = 2048, 1008


class InceptionV3(nn.Module):
    """The network of the 2015-12-05 graph: float images (B, 3, 299, 299) in [0, 255] → pooled (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = tuple(_trunk())  # a tuple, so that the layers keep the names of the weight file
        for name, layer in self.trunk:
            self.add_module(name, layer)
        self.fc = nn.Linear(DIMS, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features, before the classes."""
        x = (images - 128) / 128
        for name, _ in self.trunk:
            x = getattr(self, name)(x)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def _trunk() -> list[tuple[str, nn.Module]]:
    return [
        ("Conv2d_1a_3x3", BasicConv2d(3, 32, kernel_size=3, stride=2)),
        ("Conv2d_2a_3x3", BasicConv2d(32, 32, kernel_size=3)),
        ("Conv2d_2b_3x3", BasicConv2d(32, 64, kernel_size=3, padding=1)),
        ("MaxPool_1", nn.MaxPool2d(3, 2)),
        ("Conv2d_3b_1x1", BasicConv2d(64, 80, kernel_size=1)),
        ("Conv2d_4a_3x3", BasicConv2d(80, 192, kernel_size=3)),
        ("MaxPool_2", nn.MaxPool2d(3, 2)),
        ("Mixed_5b", InceptionA(192, pool_features=32)),
        ("Mixed_5c", InceptionA(256, pool_features=64)),
        ("Mixed_5d", InceptionA(288, pool_features=64)),
        ("Mixed_6a", InceptionB(288)),
        ("Mixed_6b", InceptionC(768, channels_7x7=128)),
        ("Mixed_6c", InceptionC(768, channels_7x7=160)),
        ("Mixed_6d", InceptionC(768, channels_7x7=160)),
        ("Mixed_6e", InceptionC(768, channels_7x7=192)),
        ("Mixed_7a", InceptionD(768)),
        ("Mixed_7b", InceptionE_1(1280)),
        ("Mixed_7c", InceptionE_2(DIMS)),
    ]


class InceptionFeatures:
    """Inception behind a protocol's resize.

    Args:
        network: the network, with weights.
        resize: a name of `RESIZES`.
        device: where to run it.
    """

    def __init__(self, network: InceptionV3, resize: str, device: str = "cpu") -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._resize, self._device = RESIZES[resize], device
        self.weights_sha256 = module_digest(network)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Features (B, 2048) and unbiased logits (B, 1008) of uint8 images (B, 3, H, W) of any size."""
        features = at_fixed_shape(self._pooled, images, ROWS)
        return Features(features, features @ self._network.fc.weight.T.cpu())

    def _pooled(self, images: Tensor) -> Tensor:
        return self._network(self._resize(images.to(self._device)))


def load_inception(protocol: EvaluationProtocol, options: ExtractorOptions) -> InceptionFeatures:
    """Inception with the weights that the options name, or that lie in a cache, or that are downloaded.

    Raises:
        InputError: no weights, or other ones.
    """
    path = find_inception_weights(options.weights, options.offline)
    state = read_state_dict(path)
    with torch.device("meta"):
        network = InceptionV3()
    for key in network.state_dict():
        if key.endswith("num_batches_tracked"):  # old files do not have it, and nothing reads it
            state.setdefault(key, torch.tensor(0))
    load_strictly(network, state, str(path))
    return InceptionFeatures(network, protocol.resize, options.device)
