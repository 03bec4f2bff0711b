"""Features of the protocol `scenes`: those of the checker network that ships."""

from __future__ import annotations

from torch import Tensor

from visgen.errors import InputError
from visgen.evaluation.digests import module_digest
from visgen.evaluation.extractors import ExtractorOptions, Features
from visgen.evaluation.protocols import EvaluationProtocol
from visgen.evaluation.scenes.checker import SceneChecker, load_checker


class CheckerFeatures:
    """The checker as a feature extractor; it has no class logits."""

    def __init__(self, checker: SceneChecker, size: int) -> None:
        self._checker, self._size = checker, size
        self.weights_sha256 = module_digest(checker)

    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (B, 3, 64, 64); raises `InputError` for another size."""
        if images.shape[-2:] != (self._size, self._size):
            height, width = images.shape[-2:]
            raise InputError(
                f"protocol scenes takes images of {self._size}×{self._size} pixels, not {width}×{height}; "
                "use adm or clean"
            )
        return Features(self._checker.features(images))


def load_checker_features(protocol: EvaluationProtocol, options: ExtractorOptions) -> CheckerFeatures:
    """The shipped checker on the device of the options."""
    return CheckerFeatures(load_checker(options.device), protocol.image_size or 64)
