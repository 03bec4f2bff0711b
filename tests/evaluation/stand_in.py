"""A protocol whose features are pooled colours: quick, deterministic, for images of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from visgen.evaluation import EXTRACTORS
from visgen.evaluation.extractors import Features
from visgen.evaluation.protocols import PROTOCOLS, EvaluationProtocol

DIMS = 12


class ToyFeatures:
    weights_sha256 = "toy"

    def __call__(self, images):
        features = F.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
        return Features(features, torch.cat([features, features.square()], dim=1))


def load_toy(protocol, options):
    return ToyFeatures()


TOY = EvaluationProtocol(
    "toy",
    1,
    extractor="toy",
    weights="none",
    resize="none",
    feature_dims=DIMS,
    has_logits=True,
    kid_subsets=5,
)
ENTRY = f"{__name__}:load_toy"


def install():
    """For a process that only evaluates; tests use the fixture `toy`, which takes it back."""
    EXTRACTORS.register("toy", ENTRY)
    PROTOCOLS["toy"] = TOY
